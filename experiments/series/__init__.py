"""Models of data that people know, checked as a user would check them."""
