"""Classifier among scikit-learn's tools: its own checks, pipelines, searches, parallel jobs."""

import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

import npresnet as nr
from npresnet.errors import DataError, DtypeError, ModuleError, RangeError, ShapeError
from tests.tiny import registered

SETTINGS = {"model": "tiny", "epochs": 12, "batch_size": 32, "lr": 0.1, "label_smoothing": 0.0}

EXPECTED_FAILURES = {
    "check_classifiers_regression_target": "floats are labels like any others: 0.5 is a class",
}


def _checks():
    with warnings.catch_warnings():  # the base class is scikit-learn's, which isn't needed here
        warnings.filterwarnings("ignore", "Estimator Classifier does not inherit")
        mark = parametrize_with_checks(
            [nr.Classifier(**SETTINGS)],
            expected_failed_checks=lambda _: EXPECTED_FAILURES,
            xfail_strict=True,
        )
        names, generator = mark.args
        return pytest.mark.parametrize(names, list(generator), ids=mark.kwargs["ids"])


@pytest.fixture(autouse=True)
def _tiny():
    with registered():
        yield


@pytest.mark.filterwarnings("ignore:Estimator Classifier does not inherit")
@_checks()
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    """Grey 8x8 images, dark or light; and their labels."""
    rng = np.random.default_rng(3)
    light = rng.permutation(np.arange(40) % 2).astype(bool)
    images = rng.integers(0, 60, (40, 8, 8)) + np.where(light, 150, 20)[:, None, None]
    return images.astype(np.uint8), np.where(light, "light", "dark")


def test_clone_and_tags(data):
    fitted = nr.Classifier(**SETTINGS).fit(*data)
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert is_classifier(twin)
    check_is_fitted(fitted)
    check_is_fitted(nr.Classifier(weights="timm/resnet34.a1_in1k"))  # classifies as it is
    with pytest.raises(NotFittedError, match="knows nothing yet"):
        twin.predict(data[0])


def test_not_fitted_is_both_libraries_error(data):
    with pytest.raises(NotFittedError, match="knows nothing yet") as caught:
        nr.Classifier().predict(data[0])
    assert isinstance(caught.value, ModuleError)
    assert type(pickle.loads(pickle.dumps(caught.value))) is ModuleError


def test_pipeline_search_and_folds(data):
    images, labels = data
    inverted = FunctionTransformer(lambda x: 255 - x)
    pipeline = make_pipeline(inverted, nr.Classifier(**SETTINGS)).fit(images, labels)
    assert pipeline.score(images, labels) > 0.9
    assert pipeline.predict_proba(images[:3]).shape == (3, 2)
    scores = cross_val_score(nr.Classifier(**SETTINGS), images, labels, cv=2)
    assert scores.min() > 0.8
    grid = {"classifier__lr": [0.0, 0.1], "classifier__seed": np.arange(1)}
    search = GridSearchCV(pipeline, grid, cv=2).fit(images, labels)
    assert search.best_params_["classifier__lr"] == 0.1
    assert search.best_score_ > 0.8


def test_processes_of_joblib(data, tmp_path):
    """A network that the other processes know; fitted there, used here."""
    images, labels = data
    settings = {"epochs": 1, "batch_size": 20, "augment": "none"}
    search = GridSearchCV(
        nr.Classifier("resnet10t", **settings), {"lr": [0.0, 0.01]}, cv=2, n_jobs=2, refit=False
    ).fit(images, labels)
    get_reusable_executor().shutdown(wait=True)  # they would wait for more work
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fitted = nr.Classifier(**SETTINGS).fit(images, labels)
    joblib.dump(fitted, tmp_path / "c.joblib")
    loaded = joblib.load(tmp_path / "c.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(images), fitted.predict_proba(images))


def test_it_is_never_imported_here():
    code = (
        "import sys, numpy as np, npresnet as nr\n"
        "x = np.zeros((4, 8, 8), np.uint8); x[::2] = 255\n"
        "clf = nr.Classifier('resnet10t', epochs=1, augment='none').fit(x, [0, 1, 0, 1])\n"
        "clf.predict(x); repr(clf.get_params())\n"
        "print([m for m in ('sklearn', 'pandas', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[]"


def test_pandas(data):
    images, labels = data
    series = pd.Series(labels, index=np.arange(len(labels))[::-1])
    settings = {**SETTINGS, "epochs": 2}
    expected = nr.Classifier(**settings).fit(images, labels).predict_proba(images)
    for given in (series, series.astype("category"), series.astype("string"), labels.tolist()):
        clf = nr.Classifier(**settings).fit(images, given)
        np.testing.assert_array_equal(clf.predict_proba(images), expected)
    with pytest.warns(UserWarning, match="column-vector"):
        nr.Classifier(**settings).fit(images, series.to_frame())
    for missing in (None, pd.NA, float("nan"), pd.NaT):
        with pytest.raises(DataError, match="label 1 is"):
            nr.Classifier(**settings).fit(images[:2], pd.Series(["a", missing], dtype=object))
    table = pd.DataFrame(images.reshape(40, 64)).astype(float)
    clf = nr.Classifier(**SETTINGS).fit(table, series)
    assert clf.n_features_in_ == 64
    assert clf.settings_.preprocessing.size == (8, 8)
    assert clf.score(table, series) > 0.9


def test_tables_of_pixels(data, tmp_path):
    images, labels = data
    rows = images.reshape(40, 64) / 16
    clf = nr.Classifier(**SETTINGS).fit(rows, labels)
    expected = clf.predict_proba(rows)
    np.testing.assert_array_equal(clf.predict_proba(rows.tolist()), expected)
    np.testing.assert_array_equal(clf.predict_proba(list(rows)), expected)
    clf.save(tmp_path / "c.safetensors")
    clf.save_pretrained(tmp_path / "shared")
    for loaded in (
        nr.Classifier.load(tmp_path / "c.safetensors", batch_size=32),
        nr.Classifier.from_pretrained(tmp_path / "shared", batch_size=32),
    ):
        np.testing.assert_array_equal(loaded.predict_proba(rows), expected)
        assert loaded.n_features_in_ == 64
        with pytest.raises(ShapeError, match="fitted on a table of 64 columns, got images"):
            loaded.predict(images)
    line = nr.Classifier(**{**SETTINGS, "epochs": 1}).fit(rows[:, :63], labels)
    assert line.settings_.preprocessing.size == (1, 63)
    with pytest.raises(ShapeError, match="X has 63 features, but Classifier is expecting 64"):
        clf.predict(rows[:, :63])
    with pytest.raises(ShapeError, match="fitted on a table of 64 columns, got images"):
        clf.predict(images)
    with pytest.raises(RangeError, match="augment='shift' is for images"):
        nr.Classifier("tiny", augment="shift").fit(rows, labels)
    tuned = nr.Classifier(**{**SETTINGS, "epochs": 1}, weights=tmp_path / "c.safetensors")
    with pytest.raises(ShapeError, match="fitted on a table of 64 columns, got images"):
        tuned.fit(images, labels)
    assert tuned.fit(rows, labels).n_features_in_ == 64
    again = clf.fit(images, labels)
    assert not hasattr(again, "n_features_in_")
    again.save(tmp_path / "c.safetensors")
    for seen in (again, nr.Classifier.load(tmp_path / "c.safetensors")):
        with pytest.raises(ShapeError, match=r"takes images, got a table \(N, 64\)"):
            seen.predict(rows)


def test_images_and_labels_of_other_libraries(data):
    images, labels = data
    clf = nr.Classifier(**{**SETTINGS, "epochs": 1})
    numbers = (labels == "light").astype(np.int64)
    expected = clf.fit(images, numbers).predict_proba(images)
    theirs = torch.tensor(images)
    clf.fit(theirs, torch.tensor(numbers))
    assert clf.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(clf.predict_proba(theirs), expected)
    np.testing.assert_array_equal(clf.predict_proba(list(theirs)), expected)
    with pytest.raises(DtypeError, match="uint8"):
        clf.predict(theirs.float())


def test_images_of_jax(data):
    jnp = pytest.importorskip("jax.numpy", reason="jax isn't installed")
    images, labels = data
    clf = nr.Classifier(**{**SETTINGS, "epochs": 1}).fit(images, labels)
    expected = clf.predict_proba(images)
    np.testing.assert_array_equal(clf.predict_proba(jnp.asarray(images)), expected)
    np.testing.assert_array_equal(clf.predict_proba([jnp.asarray(i) for i in images]), expected)
