"""Inside a network: gates, read-outs, constructed weights, wrapped LSTMs."""
