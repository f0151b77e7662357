"""Settings of a fit: every value is checked."""

import pytest

from beliefzoo.inference import FitSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("parameter_learning_rate", float("nan")),
        ("holdout", 1.0),
        ("patience", 0),
        ("schedule", "linear"),
        ("start", "random"),
        ("checkpoint_every", 0),
        ("steps", 10.5),
        ("steps", "10"),
        ("sleep_steps", None),
        ("steps", True),
        ("steps", 2**64),
        ("batch_size", 2.5),
        ("learning_rate", True),
        ("learning_rate", "fast"),
        ("learning_rate", None),
        ("holdout", "a"),
        ("holdout", True),
        ("method", None),
        ("start", 3),
        ("start", {3: 1.0}),
    ],
)
def test_bad_settings(field, value):
    with pytest.raises(ValueError, match=rf"settings\.{field}: .* got"):
        FitSettings(**{field: value})
