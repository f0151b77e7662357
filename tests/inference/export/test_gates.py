"""Named gates of recurrent networks beside torch's own output and cells run step by step."""

import numpy as np
import pytest
import torch
from torch import nn

from beliefzoo.inference import (
    BeliefGuide,
    ExactFilter,
    FitSettings,
    GRUFilter,
    LSTMFilter,
    fit,
    read,
    to_arviz,
    write,
)
from beliefzoo.inference import export_gates as export
from beliefzoo.inference import gates as gates_of
from beliefzoo.inference.arviz_groups import group
from beliefzoo.models import Categorical, Gaussian, HiddenMarkovModel, Sequences

NETWORKS = {
    "lstm": lambda: nn.LSTM(3, 5, batch_first=True),
    "lstm of two layers": lambda: nn.LSTM(3, 5, num_layers=2, batch_first=True),
    "lstm without bias": lambda: nn.LSTM(3, 5, bias=False),
    "gru of two layers": lambda: nn.GRU(3, 5, num_layers=2, batch_first=True),
    "tanh": lambda: nn.RNN(3, 5, batch_first=True),
    "relu of two layers": lambda: nn.RNN(3, 5, num_layers=2, nonlinearity="relu"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().to(dtype)
    x = torch.randn(4, 12, 3, dtype=dtype)
    found = gates_of(network, x)
    assert found["h"].dims == ("sequence", "time", "layer", "unit")
    assert found["h"].dtype == (np.float32 if dtype == torch.float32 else np.float64)
    with torch.no_grad():
        for t in range(12):  # torch hands out all layers at the last step only
            piece = x[:, : t + 1] if network.batch_first else x[:, : t + 1].transpose(0, 1)
            last = network(piece)[1]
            states = dict(zip("hc", last, strict=True)) if "lstm" in name else {"h": last}
            for part, value in states.items():
                ours = found[part].isel(time=t).transpose("layer", "sequence", "unit")
                np.testing.assert_allclose(ours, value, atol=1e-6)


def test_an_lstm_is_taken_apart_as_its_equations_say() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(3, 4, batch_first=True).double()
    x = torch.randn(2, 6, 3).double()
    found = gates_of(network, x)
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
    h, c = np.zeros((2, 4)), np.zeros((2, 4))
    for t in range(6):
        total = x[:, t].numpy() @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T
        total = total + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        i, f, g, o = np.split(total, 4, 1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        for name, value in {"i": i, "f": f, "g": np.tanh(g), "o": o, "c": c, "h": h}.items():
            here = found[name].isel(time=t, layer=0)
            np.testing.assert_allclose(here, value, atol=1e-12, err_msg=name)


def ragged() -> Sequences:
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(steps, 2)) for steps in (6, 3, 1)]
    return Sequences.from_arrays(arrays, labels=["a", "b", "c"])


def test_beyond_the_length_there_is_nothing() -> None:
    torch.manual_seed(0)
    network, data = nn.GRU(2, 3, batch_first=True).double(), ragged()
    found = gates_of(network, data)
    assert found.sequence.values.tolist() == ["a", "b", "c"]
    assert found.attrs["network"] == "GRU"
    assert found["z"].attrs["long_name"] == "update gate"
    for n, length in enumerate((6, 3, 1)):
        own = found.isel(sequence=n)
        assert not np.isnan(own.isel(time=slice(length))["h"]).any()
        assert np.isnan(own.isel(time=slice(length, None))["r"]).all()
        alone = network(data.values[n : n + 1, :length].double())[0][0].detach()
        np.testing.assert_allclose(own["h"][:length, 0], alone, atol=1e-12)


def test_codes_are_read_as_one_hot_vectors() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(4, 2, batch_first=True).double()
    codes = torch.tensor([[0, 3, 1], [2, 2, 0]])
    found = gates_of(network, Sequences.from_array(codes.numpy(), codes=True))
    hot = torch.eye(4).double()[codes]
    np.testing.assert_allclose(found["f"], gates_of(network, hot)["f"], atol=1e-12)
    written = group(
        export(network, Sequences.from_array(codes.numpy(), codes=True)), "observed_data"
    )
    np.testing.assert_array_equal(written["obs"], codes)


def normal_hmm() -> HiddenMarkovModel:
    return HiddenMarkovModel(2, Gaussian(2)).with_parameters(
        initial=[0.5, 0.5],
        transition=[[0.9, 0.1], [0.2, 0.8]],
        mean=[[0.0, 1.0], [2.0, -1.0]],
        scale=[[1.0, 1.0], [1.0, 1.0]],
    )


def test_filters_guides_and_fits_have_the_gates_of_their_network() -> None:
    torch.manual_seed(0)
    model, data = normal_hmm(), ragged()
    guide = BeliefGuide(model, LSTMFilter(3, layers=2))
    settings = FitSettings(steps=2, sleep_steps=0, holdout=0, patience=None)
    result = fit(model, guide, data, settings=settings, progress=False)
    filter = result.guide.filter
    whole = data.step_mask[..., None]
    seen = torch.where(whole, (data.values - filter.shift) / filter.scale, 0)
    x = torch.cat([seen.float(), (~data.mask).float()], -1)  # and a missing flag a feature
    by_hand = gates_of(filter.network, x)["i"].where(whole.unsqueeze(-1).numpy())
    for network, extra in ((result, {}), (result.guide, {}), (filter, {"model": model})):
        found = gates_of(network, data, **extra)
        np.testing.assert_allclose(found["i"], by_hand, atol=1e-6)
    exported = to_arviz(
        result, data, draws=3, state_draws=2, predictive_draws=0, prior_draws=0, gates=True
    )
    np.testing.assert_array_equal(group(exported, "gates")["i"], found["i"])
    assert group(exported, "gates")["i"].dims == ("sequence", "time", "layer", "unit")


def test_gates_are_written_and_read(tmp_path) -> None:
    network, data = nn.LSTM(2, 3, batch_first=True), ragged()
    write(export(network, data), tmp_path / "gates.nc")
    back = read(tmp_path / "gates.nc")
    found = gates_of(network, data)
    for name in "ifgoch":
        np.testing.assert_array_equal(group(back, "gates")[name], found[name])
    observed = group(back, "observed_data")["obs"]
    np.testing.assert_array_equal(observed, np.where(data.mask, data.values, np.nan))
    assert back.attrs["network"] == "LSTM"
    assert group(export(network, torch.randn(2, 3, 2)), "gates").sizes["unit"] == 3


X = torch.randn(2, 3, 2)
LETTERS = Sequences.from_array([[0, 4]], codes=True)
HOLES = Sequences.from_arrays([[[1.0, np.nan], [2.0, 0.0]]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gates_of(nn.LSTM(2, 4, proj_size=2), X), "one direction and no projection"),
        (lambda: gates_of(nn.GRU(2, 4, bidirectional=True), X), "one direction and no projection"),
        (lambda: gates_of(nn.LSTM(3, 4), X), r"data: needs shape \(sequences, steps, 3\)"),
        (lambda: gates_of(nn.LSTM(3, 4), ragged()), r"data: needs shape \(sequences, steps, 3\)"),
        (lambda: gates_of(nn.LSTM(2, 4), X[0]), r"data: needs shape \(sequences, steps, 2\)"),
        (lambda: gates_of(nn.LSTM(2, 4), X[:, :0]), r"data: .* at least one step, got \(2, 0, 2\)"),
        (lambda: gates_of(nn.LSTM(2, 4), [1.0]), "data: must be Sequences or a tensor"),
        (lambda: gates_of(nn.LSTM(2, 4), HOLES), "data: .* reads whole sequences.*got 1 of them"),
        (lambda: gates_of(nn.LSTM(4, 4), LETTERS), "input_size=4 reads codes below that, got 4"),
        (lambda: gates_of(nn.Linear(2, 2), X), "network: must be a torch.nn LSTM.*got Linear"),
        (lambda: gates_of(LSTMFilter(2), ragged()), "network: a filter reads .* give model="),
        (
            lambda: gates_of(BeliefGuide(normal_hmm(), ExactFilter()), ragged()),
            "network: needs a recurrent filter, got ExactFilter",
        ),
        (
            lambda: gates_of(BeliefGuide(normal_hmm(), GRUFilter(2)), X),
            "data: must be Sequences for a BeliefGuide, got Tensor",
        ),
        (
            lambda: gates_of(BeliefGuide(normal_hmm(), GRUFilter(2)), LETTERS),
            "data: Gaussian needs numbers",
        ),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_filter_is_for_its_own_kind_of_model() -> None:
    filter = GRUFilter(2)
    filter.build(normal_hmm())
    other = HiddenMarkovModel(2, Categorical(3))
    with pytest.raises(ValueError, match="filter: built for 4 input channels"):
        gates_of(filter, ragged(), model=other)
    gates_of(filter, ragged(), model=normal_hmm())  # and still is after it refused another
    backward = GRUFilter(2, direction="backward")
    backward.build(normal_hmm())
    with pytest.raises(ValueError, match="network: gates are those of a network that reads forw"):
        gates_of(backward, ragged(), model=normal_hmm())


def test_an_exact_fit_has_no_gates_to_export() -> None:
    model, data = HiddenMarkovModel(2, Gaussian(2)), ragged()
    settings = FitSettings(steps=2, restart_steps=1, holdout=0, patience=None, start="prior")
    guide = BeliefGuide(model, ExactFilter(), parameters="map")
    result = fit(model, guide, data, settings=settings, progress=False)
    with pytest.raises(ValueError, match="gates: needs a fit with a recurrent filter, got ExactFi"):
        to_arviz(result, data, gates=True)
