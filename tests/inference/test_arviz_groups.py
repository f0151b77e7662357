"""ArviZ groups: shapes, files, leave-one-out, and the other ArviZ major."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from beliefzoo.inference import arviz_groups
from beliefzoo.inference.arviz_groups import (
    build,
    compare,
    convergence,
    group,
    loo,
    read,
    replacing,
    write,
)
from beliefzoo.inference.pareto import pareto_k, psis_log_mean
from checkout import ROOT

CHAINS, DRAWS, SEQUENCES, TIME, STATES = 2, 5, 3, 4, 2
DIMS = {
    "rate": ("state",),
    "obs": ("sequence", "time"),
    "mask": ("sequence", "time"),
    "states": ("chain", "draw", "sequence", "time"),
    "smoothed": ("sequence", "time", "state"),
    "log_evidence": ("sequence",),
}
COORDS: dict[str, Any] = {
    "state": ["calm", "busy"],
    "sequence": ["a", "b", "c"],
    "time": [1900, 1901, 1902, 1903],
}


def arrays() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    return {
        "posterior": {
            "rate": rng.gamma(2.0, size=(CHAINS, DRAWS, STATES)),
            "concentration": rng.normal(size=(CHAINS, DRAWS)),
        },
        "posterior_states": {
            "states": rng.integers(0, STATES, (1, 2, SEQUENCES, TIME)),
            "smoothed": rng.random((SEQUENCES, TIME, STATES)),
        },
        "log_likelihood": {"log_evidence": rng.normal(size=(CHAINS, DRAWS, SEQUENCES))},
        "observed_data": {"obs": np.array([[1.0, np.nan, 2.0, -np.inf]] * SEQUENCES)},
        "constant_data": {"mask": np.ones((SEQUENCES, TIME), dtype=bool)},
    }


def built(**changes: Any) -> Any:
    groups = arrays() | changes.pop("groups", {})
    return build(groups, **({"dims": DIMS, "coords": COORDS, "attrs": None} | changes))


# --- groups


def test_every_array_arrives_under_its_dims_and_labels() -> None:
    idata = built()
    for group_name, variables in arrays().items():
        for name, values in variables.items():
            np.testing.assert_array_equal(idata[group_name][name].values, values)
    rate = group(idata, "posterior")["rate"]
    assert rate.dims == ("chain", "draw", "state")
    np.testing.assert_array_equal(rate.sel(state="busy"), arrays()["posterior"]["rate"][..., 1])
    assert group(idata, "posterior_states")["states"].dims == DIMS["states"]
    assert group(idata, "observed_data")["obs"].dims == ("sequence", "time")
    assert group(idata, "posterior")["draw"].values.tolist() == list(range(DRAWS))


def test_a_group_knows_only_its_own_dimensions() -> None:
    assert set(group(built(), "posterior").dims) == {"chain", "draw", "state"}
    assert set(group(built(), "constant_data").dims) == {"sequence", "time"}


def test_dimensions_without_labels_count_from_zero() -> None:
    idata = built(coords={"state": COORDS["state"]})
    assert group(idata, "observed_data")["time"].values.tolist() == list(range(TIME))


def test_a_group_may_have_dims_and_labels_of_its_own() -> None:
    arrays_ = {
        "posterior": {"rate": np.ones((1, 30, 2))},
        "posterior_predictive": {"obs": np.ones((1, 3, 4))},
        "log_likelihood": {"obs": np.ones((1, 30, 3))},
        "predictions": {"obs": np.ones((1, 3, 2))},
    }
    idata = build(
        arrays_,
        dims={"rate": ("state",), "obs": ("time",), "predictions/obs": ("ahead",)},
        coords={
            "time": [1, 2, 3, 4],
            "log_likelihood/time": [1, 2, 4],
            "posterior_predictive/draw": [0, 14, 29],
        },
    )
    assert group(idata, "log_likelihood")["time"].values.tolist() == [1, 2, 4]
    assert group(idata, "posterior_predictive")["time"].values.tolist() == [1, 2, 3, 4]
    assert group(idata, "posterior_predictive")["draw"].values.tolist() == [0, 14, 29]
    assert group(idata, "predictions")["obs"].dims == ("chain", "draw", "ahead")
    assert group(idata, "predictions")["draw"].values.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="must name a group before '/'; got 'likelihood/time'"):
        build(arrays_, dims={}, coords={"likelihood/time": [1]})


def test_empty_groups_are_left_out() -> None:
    idata = built(groups={"posterior": {}})
    with pytest.raises(ValueError, match=r"idata must have a group 'posterior'; it has .*log_lik"):
        group(idata, "posterior")


def test_attributes_are_text_and_numbers_with_the_rest_as_json() -> None:
    settings = {"states": 3, "sizes": [1, 2], "resume": None}
    attrs = {"seed": np.int64(7), "loss": 1.5, "commit": "abc", "settings": settings, "ok": True}
    kept = built(attrs=attrs).attrs
    assert (kept["seed"], kept["loss"], kept["commit"], kept["ok"]) == (7, 1.5, "abc", "true")
    assert json.loads(kept["settings"]) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": {"posteriors": {"x": 1.0}}}, r"groups must be among posterior, .*posteriors"),
        ({"groups": {name: {} for name in arrays()}}, "groups must hold at least one variable"),
        (
            {"groups": {"posterior": {"state": np.ones((2, 5))}}},
            r"posterior\['state'\] must not bear the name of a dimension",
        ),
        (
            {"groups": {"posterior": {"chain": np.ones((2, 5))}}},
            r"posterior\['chain'\] must not bear the name of a dimension",
        ),
        (
            {"groups": {"posterior": {"rate": np.ones((2, 5, 3))}}},
            r"posterior\['rate'\] must have 2 along 'state' as coords has; got shape \(2, 5, 3\)",
        ),
        (
            {"groups": {"posterior": {"rate": np.ones((5, 2))}}},
            r"posterior\['rate'\] must have the dims \('chain', 'draw', 'state'\).*\(5, 2\)",
        ),
        (
            {"groups": {"posterior": {"a": np.ones((2, 5)), "b": np.ones((2, 4))}}},
            r"posterior\['b'\] must have 5 along 'draw' as posterior\['a'\] has",
        ),
        (
            {"groups": {"posterior": {"a": np.array([[None]])}}},
            r"posterior\['a'\] must hold numbers or strings; got dtype object",
        ),
        ({"dims": DIMS | {"rate": ("state", "state")}}, r"posterior\['rate'\] must have the dims"),
        ({"coords": {"state": ["a", "a"]}}, r"coords\['state'\] must be distinct.*'a', 'a'"),
        ({"coords": {"state": np.ones((2, 2))}}, r"coords\['state'\] must be one-dimensional"),
        ({"coords": {"state": ["a\0", "b"]}}, r"coords\['state'\] must not end in zeros"),
        ({"coords": {"draw": range(5)}}, "coords must not label 'draw'"),
        ({"attrs": {"model": object()}}, r"attrs\['model'\] must be a value that JSON can hold"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**changes)


# --- files


def test_a_file_gives_back_values_dtypes_labels_and_attributes(tmp_path: Path) -> None:
    idata = built(attrs={"seed": 3, "settings": {"a": [1]}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the custom group must not be complained about
        write(idata, tmp_path / "posterior.nc")
        back = read(tmp_path / "posterior.nc")
    assert os.listdir(tmp_path) == ["posterior.nc"]
    assert type(back) is type(idata)
    assert dict(back.attrs) == dict(idata.attrs)
    for name, variables in arrays().items():
        xr.testing.assert_identical(group(back, name), group(idata, name))
        for variable in variables:
            assert group(back, name)[variable].dtype == group(idata, name)[variable].dtype


ODD = [
    *(
        "",
        " ",
        "  ",
        "a ",
        "a/b",
        "/",
        "..",
        "é",
        "e\u0301",
        "日本",
        "😀",
        "nan",
        "0",
        "[0]",
        "'",
        '"',
    ),
    *("a\nb", "a\\nb", "\t", "\x01", "a\0b", "\0a", "\ud800"),
]


def test_labels_of_any_characters_survive_a_file(tmp_path: Path) -> None:
    """Composed and decomposed letters stay apart, and so do escapes and what they stand for."""
    names: Any = {"state": ODD, "sequence": ODD[:3]}
    idata = build(
        {
            "posterior": {"rate": np.arange(float(len(ODD)))[None, None]},
            "observed_data": {"obs": np.array(ODD[-3:] + ODD[:9]).reshape(3, 4)},
        },
        dims=DIMS,
        coords=names,
        attrs={"model": "é/\n"},
    )
    write(idata, tmp_path / "posterior.nc")
    again = read(tmp_path / "posterior.nc")
    for name in ("posterior", "observed_data"):
        xr.testing.assert_identical(group(again, name), group(idata, name))
    assert group(again, "posterior")["state"].values.tolist() == ODD
    assert float(group(again, "posterior")["rate"].sel(state="\ud800")[0, 0]) == len(ODD) - 1
    assert again.attrs == idata.attrs


def test_reading_leaves_the_file_free_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    write(built(attrs={"seed": 1}), path)
    first = read(path)
    write(built(attrs={"seed": 2}, groups={"posterior": {"rate": np.zeros((1, 1, 2))}}), path)
    assert first["posterior"]["rate"].shape == (CHAINS, DRAWS, STATES)
    assert read(path).attrs["seed"] == 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as unfinished:
        unfinished.write_text("half" * 10_000 + "\udc80", encoding="utf-8")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["posterior.nc"]


def test_paths_that_cannot_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path must lie in an existing folder; .*nowhere"):
        write(built(), tmp_path / "nowhere" / "posterior.nc")
    with pytest.raises(FileNotFoundError, match=r"there is none at .*absent\.nc"):
        read(tmp_path / "absent.nc")
    whole = tmp_path / "whole.nc"
    write(built(), whole)
    part = tmp_path / "part.nc"
    part.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"path must be a complete NetCDF file; .*part\.nc"):
        read(part)


# --- leave-one-out

Y = np.array([-1.2, 0.3, 0.4, 1.9, 0.8, -0.5, 1.1, 0.2])


def conjugate(y: Any, *, prior_sd: float = 1.0, chains: int = 4, draws: int = 5_000) -> Any:
    """Exact posterior draws of θ, with θ ~ N(0, sd²) and y_i | θ ~ N(θ, 1)."""
    precision = prior_sd**-2 + len(y)
    rng = np.random.default_rng(5)
    theta = rng.normal(y.sum() / precision, precision**-0.5, size=(chains, draws))
    log_likelihood = stats.norm.logpdf(y, theta[..., None])
    return build(
        {
            "posterior": {"theta": theta},
            "log_likelihood": {"log_p": log_likelihood[:, :, None], "whole": log_likelihood},
            "observed_data": {"obs": y[None]},
        },
        dims={"log_p": ("sequence", "time"), "whole": ("unit",), "obs": ("sequence", "time")},
    )


def exact_loo(y: Any, prior_sd: float = 1.0) -> Any:
    """log p(y_i | y_-i) in closed form."""
    precision = prior_sd**-2 + len(y) - 1
    return stats.norm.logpdf(y, (y.sum() - y) / precision, np.sqrt(1 + 1 / precision))


def test_leaving_one_out_of_a_conjugate_model() -> None:
    # 20 000 exact draws: standard error of each term below 0.01; 5 of them, seeded.
    result = loo(conjugate(Y), unit="time")
    np.testing.assert_allclose(result.elpd_i, exact_loo(Y), atol=0.05)
    assert result.elpd == pytest.approx(exact_loo(Y).sum(), abs=0.05)
    assert result.se == pytest.approx(np.sqrt(len(Y) * exact_loo(Y).var(ddof=1)), abs=0.05)
    # p = Σ log E p(y_i|θ) - elpd, the first with the full posterior N(Σy/9, 1/9).
    full = stats.norm.logpdf(Y, Y.sum() / 9, np.sqrt(1 + 1 / 9))
    assert result.p == pytest.approx(full.sum() - exact_loo(Y).sum(), abs=0.05)
    assert result.pareto_k.shape == (len(Y),)
    assert (result.unit, result.draws, result.unreliable) == ("time", 20_000, 0)


def test_sensitivity_tells_a_prior_that_contradicts_from_one_that_agrees() -> None:
    """Mean of a normal law of variance 1, one observation, prior N(0, variance)."""
    noise = np.random.default_rng(0).normal(size=(4, 2000))

    def found(observed: float, variance: float) -> list[float]:
        shrunk = variance / (1 + variance)
        mean = shrunk * observed + np.sqrt(shrunk) * noise
        values = {"mean": mean, "pair": np.stack([mean, np.zeros_like(mean)], -1)}
        groups = {
            "posterior": values,
            "log_prior": {"joint": -(mean**2) / 2 / variance},
            "log_likelihood": {"obs": -((observed - mean) ** 2) / 2},
        }
        idata = arviz_groups.build(groups, dims={"pair": ["place"]})
        table = arviz_groups.prior_sensitivity(idata)
        assert list(table.index) == ["mean", "pair[0]"]  # what is constant is left out
        assert table.loc["mean"].tolist() == pytest.approx(table.loc["pair[0]"].tolist())
        row: list[float] = table.loc["mean"].tolist()
        return row

    assert [value > 0.05 for value in found(8.0, 1.0)] == [True, True]  # they contradict
    assert [value > 0.05 for value in found(1.0, 1e4)] == [False, True]  # a wide prior
    assert [value > 0.05 for value in found(1.0, 1e-4)] == [True, False]  # the data say little
    with pytest.raises(ValueError, match="log_prior"):
        arviz_groups.prior_sensitivity(arviz_groups.build({"posterior": {"x": noise}}, dims={}))


def test_leave_one_out_is_arviz_own() -> None:
    az = pytest.importorskip("arviz")
    idata = conjugate(Y, draws=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = az.loo(idata, pointwise=True, var_name="whole", reff=1.0)
    ours = loo(idata, unit="unit")
    np.testing.assert_allclose(ours.pareto_k, theirs.pareto_k, atol=0.05)  # r_eff is near 1
    elpd, se = (
        (theirs.elpd, theirs.se)
        if hasattr(theirs, "elpd")
        else (theirs.elpd_loo, theirs.se * np.sqrt(len(Y) / (len(Y) - 1)))  # variance over n in 0.x
    )
    assert ours.elpd == pytest.approx(elpd, abs=1e-2)
    assert ours.se == pytest.approx(se, abs=1e-2)


def test_padding_and_missing_steps_do_not_count() -> None:
    idata = conjugate(Y, chains=1, draws=2000)
    log_p = group(idata, "log_likelihood")["log_p"].values
    padding, missing = np.full_like(log_p[..., :2], np.nan), np.zeros_like(log_p[..., :1])
    padded = build(
        {"log_likelihood": {"log_p": np.concatenate([log_p, padding, missing], axis=-1)}},
        dims={"log_p": ("sequence", "time")},
    )
    plain, result = loo(idata, unit="time"), loo(padded, unit="time")
    np.testing.assert_array_equal(result.elpd_i, [*plain.elpd_i, 0.0])
    assert result.pareto_k[-1] == 0.0
    assert result.p == pytest.approx(plain.p, abs=1e-9)


def test_sample_stats_stand_in_for_a_unit_that_log_likelihood_lacks() -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(2, 50, 3, 4))
    steps[:, :, 1, 2:] = np.nan
    dims = {"obs": ("sequence",), "step_log_likelihood": ("sequence", "time"), "lp": ()}
    stats_ = {"step_log_likelihood": steps, "lp": np.ones((2, 50))}
    groups = {"log_likelihood": {"obs": np.nansum(steps, -1)}, "sample_stats": stats_}
    both = build(groups, dims=dims)
    alone = build({"log_likelihood": {"step": steps}}, dims={"step": ("sequence", "time")})
    ours, theirs = loo(both, "time"), loo(alone, "time")
    np.testing.assert_array_equal(ours.elpd_i, theirs.elpd_i)
    assert loo(both, "sequence").elpd_i.size == 3
    with pytest.raises(ValueError, match=r"got 'state', and the variables are .*step_log"):
        loo(both, "state")


def test_correlated_draws_lengthen_the_tail() -> None:
    idata = conjugate(Y, draws=500)
    log_p = group(idata, "log_likelihood")["whole"].values
    sticky = build({"log_likelihood": {"whole": np.repeat(log_p, 8, 1)}}, dims={"whole": ["unit"]})
    joined = build(
        {"log_likelihood": {"whole": np.repeat(log_p, 8, 1).reshape(1, -1, len(Y))}},
        dims={"whole": ["unit"]},
    )
    several, one = loo(sticky, "unit"), loo(joined, "unit")
    assert several.draws == one.draws
    assert not np.array_equal(several.pareto_k, one.pareto_k)
    assert several.elpd == pytest.approx(one.elpd, abs=0.05)


def test_a_single_unit_has_no_standard_error() -> None:
    assert np.isnan(loo(conjugate(Y[:1]), unit="time").se)


def test_comparison_puts_the_best_first() -> None:
    models = {"tight": conjugate(Y, prior_sd=0.1), "wide": conjugate(Y, prior_sd=1.0)}
    table = compare(models, unit="time")
    terms = {"tight": exact_loo(Y, 0.1), "wide": exact_loo(Y, 1.0)}
    best, other = sorted(terms, key=lambda name: -terms[name].sum())
    assert list(table.index) == [best, other]
    assert table.loc[best, "difference"] == table.loc[best, "se_difference"] == 0.0
    gap = terms[other] - terms[best]
    assert table.loc[other, "difference"] == pytest.approx(gap.sum(), abs=0.05)
    assert table.loc[other, "se_difference"] == pytest.approx(
        np.sqrt(8 * gap.var(ddof=1)), abs=0.05
    )
    assert table.loc[other, "elpd"] == pytest.approx(terms[other].sum(), abs=0.05)
    assert (table["worst_k"] < 0.7).all()


def with_log_p(value: Any) -> Any:
    log_p = np.zeros((1, 30, 2))
    log_p[0, 0, 1] = value
    return build({"log_likelihood": {"log_p": log_p}}, dims={"log_p": ("time",)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loo(conjugate(Y), unit="sequence"), r"unit must be the last dimension.*'log_p'"),
        (lambda: loo(conjugate(Y, chains=1, draws=20), unit="time"), r"at least 25 draws; got 20"),
        (lambda: loo(with_log_p(np.nan), unit="time"), r"must be finite.*unit 1 holds nan"),
        (lambda: loo(with_log_p(-np.inf), unit="time"), r"must be finite.*unit 1 holds -inf"),
        (lambda: loo(built(groups={"log_likelihood": {}})), "must have a group 'log_likelihood'"),
        (lambda: compare({}), "models must name at least one model"),
        (
            lambda: compare({"a": conjugate(Y), "b": conjugate(Y[:5])}, unit="time"),
            "models must share their data; 'a' has 8 units of 'time', 'b' has 5",
        ),
        (
            lambda: compare({"a": conjugate(Y), "b": conjugate(Y + 1)}, unit="time"),
            "models must share their data; 'b' and 'a' do not",
        ),
    ],
)
def test_bad_comparisons_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- Markov chains


def chains_of(values: Any) -> Any:
    return build({"posterior": {"rate": values}}, dims={})


def test_convergence_knows_independent_draws_and_autoregressions() -> None:
    """ESS of the mean of an AR(1) is N (1 − φ) / (1 + φ); within 20 %, failure < 1e-4."""
    noise = np.random.default_rng(3).normal(size=(4, 4000))
    independent = convergence(chains_of(noise))
    assert independent.r_hat == pytest.approx(1, abs=0.005)
    assert independent.ess_bulk == pytest.approx(16_000, rel=0.2)
    assert independent.ess_tail == pytest.approx(16_000, rel=0.2)
    slow = noise.copy()
    for t in range(1, 4000):
        slow[:, t] += 0.8 * slow[:, t - 1]
    assert convergence(chains_of(slow)).ess_bulk == pytest.approx(16_000 / 9, rel=0.2)


def test_the_tail_of_convergence_is_that_of_both_outer_quantiles() -> None:
    """Signs are independent and sizes are not, so the mean is known well and the tails are not."""
    rng = np.random.default_rng(4)
    size = np.repeat(rng.gamma(1.0, size=(4, 40)), 50, axis=1)
    found = convergence(chains_of(size * rng.choice([-1.0, 1.0], size=size.shape)))
    assert found.ess_tail < 0.25 * found.ess_bulk


def test_convergence_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 2 chains of 4 draws, got 1 of 50"):
        convergence(chains_of(np.random.default_rng(0).normal(size=(1, 50))))
    with pytest.raises(ValueError, match="needs a parameter that varies, got constants alone"):
        convergence(chains_of(np.ones((2, 50))))


# --- the other ArviZ major

SECOND_ENVIRONMENT = ROOT / ".cache" / "arviz1"

IN_SECOND_ENVIRONMENT = """
import importlib, json, sys, types, warnings
import numpy as np, xarray as xr

folder, given, made = sys.argv[1:]
alone = sys.modules["alone"] = types.ModuleType("alone")
alone.__path__ = [folder]  # groups and Pareto, without what else the package loads
warnings.simplefilter("error")
groups, pareto = (importlib.import_module(f"alone.{name}") for name in ("arviz_groups", "pareto"))
assert not {"torch", "pyro", "beliefzoo"} & set(sys.modules)

idata = groups.read(given)
assert type(idata) is xr.DataTree, type(idata)
groups.write(idata, made)
again = groups.read(made)
for name in idata.children:
    xr.testing.assert_identical(groups.group(again, name), groups.group(idata, name))
try:
    groups.build({"posterior": {"rate": np.ones((1, 2, 3))}}, dims={})
except ValueError as error:
    refused = str(error)
import arviz
whole = arviz.from_netcdf(given)
log_weights = np.random.default_rng(6).normal(size=10_000)
print(json.dumps({
    "major": int(arviz.__version__.split(".")[0]),
    "refused": refused,
    "attrs": dict(again.attrs),
    "groups": sorted(whole.children),
    "k": pareto.pareto_k(log_weights),
    "equal": pareto.pareto_k(np.zeros(100)),
    "few": pareto.pareto_k(np.array([0.0, 1.0] + [-np.inf] * 98)),
    "log_mean": pareto.psis_log_mean(log_weights),
    "elpd": groups.loo(idata, unit="time").elpd,
    "p": groups.loo(idata, unit="time").p,
    "k_i": groups.loo(idata, unit="time").pareto_k.tolist(),
    "convergence": list(vars(groups.convergence(idata)).values()),
    "table": groups.compare({"one": idata, "two": again}, unit="time")["difference"].tolist(),
}, default=int))
"""


def second_environment() -> Path:
    """Interpreter of a small cached environment with ArviZ 1.x; skips where none can be made."""
    python = SECOND_ENVIRONMENT / "bin" / "python"
    if (SECOND_ENVIRONMENT / "complete").exists():
        return python
    found = [shutil.which(f"python3.{minor}") for minor in (12, 13, 14)]
    found += [str(p) for p in Path("~/.pyenv/versions").expanduser().glob("*/bin/python3.1[2-9]")]
    found += [sys.executable] if sys.version_info >= (3, 12) else []
    # A pyenv shim answers to a name whose version is not chosen: ask each one.
    test = ["-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"]
    working = [
        p for p in found if p and not subprocess.run([p, *test], capture_output=True).returncode
    ]
    if not working:
        pytest.skip("needs a Python >= 3.12 for ArviZ 1.x; none found")
    shutil.rmtree(SECOND_ENVIRONMENT, ignore_errors=True)
    subprocess.run([working[0], "-m", "venv", str(SECOND_ENVIRONMENT)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "15"]
    done = subprocess.run(
        [*pip, "numpy", "arviz>=1", "netCDF4"], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        pytest.skip(f"ArviZ 1.x could not be installed: {done.stderr.strip().splitlines()[-1]}")
    (SECOND_ENVIRONMENT / "complete").touch()
    return python


@pytest.mark.slow
def test_the_two_majors_read_each_other_and_agree(tmp_path: Path) -> None:
    python = second_environment()
    idata = conjugate(Y, chains=4, draws=2500)
    groups: dict[str, Any] = {
        name: dict(group(idata, name).data_vars) for name in ("posterior", "log_likelihood")
    }
    idata = build(
        groups | {key: value for key, value in arrays().items() if key not in groups},
        dims=DIMS | {"log_p": ("sequence", "time"), "whole": ("unit",)},
        attrs={"seed": 3, "settings": {"states": [1, 2]}},
    )
    given, made, script = tmp_path / "given.nc", tmp_path / "made.nc", tmp_path / "script.py"
    write(idata, given)
    script.write_text(textwrap.dedent(IN_SECOND_ENVIRONMENT))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), str(script), str(ROOT / "inference"), str(given), str(made)],
        capture_output=True,
        text=True,
        env=inherited,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["major"] >= 1
    assert there["attrs"] == dict(idata.attrs)
    back = read(made)
    for name in there["groups"]:
        xr.testing.assert_identical(group(back, name), group(idata, name))
    assert set(there["groups"]) == {*arrays()}
    assert re.search(r"posterior\['rate'\] must have the dims", there["refused"])
    log_weights = np.random.default_rng(6).normal(size=10_000)
    assert there["k"] == pytest.approx(pareto_k(log_weights), abs=1e-6)
    assert (there["equal"], there["few"]) == (0.0, np.inf)
    assert there["log_mean"] == pytest.approx(psis_log_mean(log_weights), abs=1e-9)
    here = loo(idata, unit="time")
    assert there["elpd"] == pytest.approx(here.elpd, abs=1e-4)
    assert there["p"] == pytest.approx(here.p, abs=1e-4)
    np.testing.assert_allclose(there["k_i"], here.pareto_k, atol=0.02)
    assert there["table"] == [0.0, 0.0]
    assert there["convergence"] == pytest.approx(list(vars(convergence(idata)).values()), rel=0.01)
