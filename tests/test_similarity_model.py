"""SimilarityModel: examples in, neighbors and labels out; training, saving, loading, other encoders refused."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import clustered

import simpipe
from simpipe import files
from simpipe.callbacks import EvalCallback, SplitValidationLoss
from simpipe.errors import ConfigError, EmptyIndexError, IncompatibleError, NotCalibratedError, ReleaseError
from simpipe.layers import MetricEmbedding
from simpipe.losses import XBM, MultiSimilarityLoss, ProxyAnchorLoss, SoftNearestNeighborLoss, TripletLoss
from simpipe.models import SimilarityModel, load_model
from simpipe.models.index_api import IndexApi
from simpipe.models.loss_state import LossState
from simpipe.retrieval_metrics import RecallAtK
from simpipe.training.encoder import fingerprint_of, save_encoder
from simpipe.utils import unpack_lookup_distances, unpack_lookup_labels

X, Y = clustered(600, dim=8, clusters=6)
TRAIN, REST = slice(0, 300), slice(300, 600)


def make_model(*, seed: int = 1, outputs: int = 1, **compile_options) -> SimilarityModel:
    inputs = keras.Input((8,))
    init = keras.initializers.GlorotUniform(seed=seed)
    embedding = MetricEmbedding(4, kernel_initializer=init, name="embedding")(inputs)
    others = [keras.layers.Dense(6, name=f"other{i}")(inputs) for i in range(outputs - 1)]
    model = SimilarityModel(inputs, [*others, embedding] if others else embedding)
    options = {"loss": MultiSimilarityLoss(), **compile_options}
    model.compile(keras.optimizers.Adam(0.01), **options)
    return model


@pytest.fixture
def model() -> SimilarityModel:
    made = make_model()
    made.index(X[TRAIN], Y[TRAIN], data=X[TRAIN])
    return made


def test_answers_are_those_of_the_embeddings(model):
    vectors = model.encode(X)
    true = np.argmax(vectors[REST] @ vectors[TRAIN].T, axis=1)
    lookups = model.lookup(X[REST], k=3)
    assert [row[0].id for row in lookups] == [str(i) for i in true]
    assert unpack_lookup_labels(lookups)[:, 0].tolist() == Y[true].tolist()
    np.testing.assert_allclose(unpack_lookup_distances(lookups)[:, 0], 1 - (vectors[REST] @ vectors[TRAIN].T).max(1), atol=1e-6)
    assert (lookups[0][0].data == X[true[0]]).all()
    single = model.single_lookup(X[300], k=3)
    assert [(n.rank, n.id, n.label) for n in single] == [(n.rank, n.id, n.label) for n in lookups[0]]
    model.index_single(X[300], Y[300], data=X[300])
    assert model.index_size() == 301
    assert model.single_lookup(X[300])[0].id == "300"
    model.reset_index()
    assert model.index_size() == 0


def test_examples_come_in_every_form(model):
    expected = [[n.id for n in row] for row in model.lookup(X[REST])]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return X[REST][index * 100 : index * 100 + 100], Y[REST][index * 100 : index * 100 + 100]

    dataset = tf.data.Dataset.from_tensor_slices((X[REST], Y[REST])).batch(77)
    for form in (X[REST].tolist(), tf.constant(X[REST]), dataset, Batches(), dataset.map(lambda x, y: x)):
        assert [[n.id for n in row] for row in model.lookup(form)] == expected
    by_arrays = model.calibrate(X[REST], Y[REST], verbose=0)
    assert model.calibrate(dataset, verbose=0).cutpoints == by_arrays.cutpoints
    other = make_model()
    other.index(dataset)
    assert (other.to_data_frame()["labels"] == Y[REST]).all()
    assert model.lookup(X[:0]) == []


def test_calibrate_match_and_evaluate(model, capsys):
    result = model.calibrate(X[REST], Y[REST], {"most": 0.9}, extra_metrics=["precision", "recall", "binary_accuracy"])
    assert "optimal" in capsys.readouterr().out
    matches = model.match(X[REST], no_match_label=77)
    assert np.mean(np.array(matches) == Y[REST]) == pytest.approx(result.cutpoints["optimal"]["binary_accuracy"])
    every = model.match(X[REST], "all", 77)
    assert list(every) == ["optimal", "most"]
    assert every["optimal"] == matches
    assert every["most"].count(77) > matches.count(77)
    evaluated = model.evaluate_classification(X[REST], Y[REST], extra_metrics=["precision", "binary_accuracy"], verbose=0)
    for name, cutpoint in result.cutpoints.items():
        for metric in ("precision", "f1", "binary_accuracy", "distance"):
            assert evaluated[name][metric][0] == pytest.approx(cutpoint[metric])
    nearest = np.array([row[0].label for row in model.lookup(X[REST], k=1)])
    retrieved = model.evaluate_retrieval(X[REST], Y[REST], [RecallAtK(k=1)], verbose=0)
    assert retrieved["recall@1"] == pytest.approx((nearest == Y[REST]).mean())
    with pytest.raises(ConfigError, match="there are: optimal, most"):
        model.match(X, "optimum")


def test_asking_too_early():
    model = make_model()
    with pytest.raises(EmptyIndexError):
        model.lookup(X)
    model.index(X, Y)
    with pytest.raises(NotCalibratedError):
        model.match(X)
    with pytest.raises(EmptyIndexError, match="no batches"):
        model.index(tf.data.Dataset.from_tensor_slices(X).batch(5).take(0))


def test_the_index_follows_compile():
    assert make_model(loss=TripletLoss("l2")).indexer.distance == "euclidean"
    assert make_model(loss=SoftNearestNeighborLoss()).indexer.distance == "squared_euclidean"
    assert make_model(loss=XBM(TripletLoss("manhattan"), memory_size=32)).indexer.distance == "manhattan"
    assert make_model(loss="mse").indexer.distance == "cosine"
    assert make_model(distance="ip", search="nmslib").indexer.backend.kind == "nmslib"
    two = make_model(outputs=2, loss={"other0": "mse", "embedding": TripletLoss("l2")}, embedding_output=1)
    assert (two.indexer.distance, two.indexer.embedding_size) == ("euclidean", 4)
    two.index(X[TRAIN], Y[TRAIN])
    np.testing.assert_allclose(two.lookup(X[:5], k=1)[3][0].embedding, make_model().encode(X[3:4])[0], rtol=1e-5)
    with pytest.raises(ConfigError, match="2 outputs"):
        make_model(outputs=2, loss=["mse", TripletLoss()], embedding_output=2)
    bare = SimilarityModel(inputs := keras.Input((8,)), MetricEmbedding(4)(inputs))
    bare.index(X, Y)  # also without compile
    assert bare.index_size() == 600


@keras.saving.register_keras_serializable(package="tests")
class Own(IndexApi, LossState, keras.Model):
    """A model with a `call` of its own: nobody knows its output's size before it was called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = MetricEmbedding(4, kernel_initializer=keras.initializers.GlorotUniform(seed=1))

    def call(self, inputs):
        return self.embedding(inputs)


def test_a_model_with_a_call_of_its_own(model):
    own = Own()
    own.compile("adam", loss=TripletLoss("l2"), search="nmslib")
    with pytest.raises(ConfigError, match="index some examples first"):
        own.index_size()
    own.index(X[TRAIN], Y[TRAIN])
    assert (own.index_size(), own.indexer.distance, own.indexer.backend.kind) == (300, "euclidean", "nmslib")
    assert own.single_lookup(X[5])[0].id == "5"


def test_embeddings_of_other_weights_are_refused(model, tmp_path):
    model.calibrate(X[REST], Y[REST], verbose=0)
    before = fingerprint_of(model)
    model.fit(X, Y, batch_size=60, verbose=0)
    for ask in (
        lambda: model.lookup(X),
        lambda: model.match(X),
        lambda: model.index(X[REST], Y[REST]),
        lambda: model.save_index(tmp_path / "index"),
    ):
        with pytest.raises(IncompatibleError, match=f"{before[:12]}.*{fingerprint_of(model)[:12]}"):
            ask()
    model.reset_index()
    model.index(X, Y)
    assert model.single_lookup(X[5])[0].id == "5"


# --- disk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["folder", "model.keras"])
def test_save_and_load(model, tmp_path, name):
    model.fit(X, Y, batch_size=60, verbose=0)
    model.reset_index()
    model.index(X[TRAIN], Y[TRAIN] + 2**40, data=X[TRAIN])
    model.calibrate(X[REST], Y[REST] + 2**40, verbose=0)
    model.save(tmp_path / name)
    loaded = load_model(tmp_path / name)
    assert isinstance(loaded, SimilarityModel)
    assert loaded.match(X) == model.match(X)
    assert set(loaded.match(X)) - {-1} <= set((Y + 2**40).tolist())
    assert (loaded.lookup(X, k=2)[9][1].data == model.lookup(X, k=2)[9][1].data).all()
    assert loaded.optimizer.iterations.numpy() == model.optimizer.iterations.numpy()
    loaded.fit(X, Y, batch_size=60, verbose=0)
    plain = keras.saving.load_model(tmp_path / name / "model.keras" if name == "folder" else tmp_path / name)
    assert plain.index_size() == 0
    plain.load_index(tmp_path / name)
    assert plain.match(X) == model.match(X)
    with pytest.raises(ConfigError if name == "folder" else (ConfigError, OSError)):
        model.save(tmp_path / "folder" if name == "folder" else tmp_path / name, overwrite=False, save_index=name != "folder")
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"pickle" not in path.read_bytes()


def test_index_settings_come_back(tmp_path):
    model = make_model(loss=ProxyAnchorLoss(6), distance="l2", search="nmslib", stat_buffer_size=7)
    model.fit(X, Y, batch_size=60, verbose=0)
    model.save(tmp_path / "m.keras")
    assert zipfile.ZipFile(tmp_path / "m.keras").testzip() is None
    assert not (tmp_path / "m.index").exists()  # nothing indexed, nothing saved
    loaded = load_model(tmp_path / "m.keras")
    assert (loaded.indexer.distance, loaded.indexer.backend.kind, loaded.indexer.stat_buffer_size) == ("euclidean", "nmslib", 7)
    assert fingerprint_of(loaded) == fingerprint_of(model)


def test_another_models_index_is_refused(model, tmp_path):
    model.save_index(tmp_path / "index")
    with pytest.raises(IncompatibleError, match=fingerprint_of(model)[:12]):
        make_model(seed=2).load_index(tmp_path / "index")
    inputs = keras.Input((8,))
    wider = SimilarityModel(inputs, MetricEmbedding(5)(inputs))
    with pytest.raises(IncompatibleError, match=r"dim 5.*dim 4"):
        wider.load_index(tmp_path / "index")
    with pytest.raises(ReleaseError, match="nothing is published"):
        model.load_index(tmp_path / "nothing")


def test_saved_under_a_strategy_loaded_without(tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = make_model(loss=XBM(MultiSimilarityLoss(), memory_size=120))
    model.fit(X, Y, batch_size=60, verbose=0)
    model.index(X[TRAIN], Y[TRAIN])
    model.calibrate(X[REST], Y[REST], verbose=0)
    model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").match(X) == model.match(X)


def test_a_published_release_answers_through_the_model(tmp_path):
    """Embeddings that the pipeline built and published with the model's encoder."""
    from simpipe.beam.options import run_graph  # noqa: F401  the line below runs Beam in this process
    from simpipe.config import parse_config

    model = make_model()
    vectors = model.encode(X)
    np.save(tmp_path / "x.npy", vectors)
    np.save(tmp_path / "labels.npy", np.array([f"c{y}" for y in Y]))
    source = {"kind": "vectors", "path": str(tmp_path / "x.npy"), "labels": str(tmp_path / "labels.npy")}
    router = {"kind": "kmeans", "partitions": 3}
    raw = {"name": "t", "root": str(tmp_path / "r"), "source": source, "build": {"router": router, "backend": {"kind": "exact"}}}
    from pipelines.line import Line

    Line(parse_config(raw), say=lambda _: None).run()
    model.load_index(tmp_path / "r")
    searcher = simpipe.open_release(tmp_path / "r")
    assert len(searcher.partition_rows) == 3
    found = searcher.lookup(vectors[:20], k=4)
    assert [[n.id for n in row] for row in model.lookup(X[:20], k=4)] == found.ids.tolist()
    assert model.match(X[:20], no_match_label=None) == searcher.match(vectors[:20]).labels.tolist()
    model.index(X[:2], ["new", "new"], ids=["a", "b"])
    assert model.index_size() == searcher.items + 2
    # A release of another encoder is refused by name.
    manifest = searcher.folder / "manifest.json"
    info = files.read_json(manifest)
    info["encoder"]["fingerprint"] = "f" * 64
    files.write_json(manifest, info)
    with pytest.raises(IncompatibleError, match="ffffffffffff"):
        model.load_index(searcher.folder)


def test_encoders_of_the_pipeline_carry_the_index_api(model, tmp_path):
    from simpipe.data.examples import InputSpec
    from simpipe.training.encoder import load_model as load_encoder

    spec = InputSpec(name="columns", shape=(8,), dtype="float32", encoding="float")
    fields = {"dim": 4, "distance": "cosine", "train_classes": ("a",), "training": {}, "history": {}, "metrics": {}}
    save_encoder(model, tmp_path, key="k", input=spec, **fields)
    encoder, info = load_encoder(tmp_path)
    assert info.fingerprint == fingerprint_of(model)
    encoder.index(X[TRAIN], Y[TRAIN])
    assert [n.id for n in encoder.single_lookup(X[9])] == [n.id for n in model.single_lookup(X[9])]


# --- callbacks ---------------------------------------------------------------------------------------------------------


def test_eval_callback_leaves_the_index_alone(model, tmp_path):
    model.calibrate(X[REST], Y[REST], verbose=0)
    known = EvalCallback(
        X[REST], Y[REST], X[TRAIN], Y[TRAIN],
        metrics=["binary_accuracy", "f1"], known_classes=[0, 1, 2], retrieval_metrics=[RecallAtK(k=3)], tb_logdir=tmp_path,
    )  # fmt: skip
    plain = EvalCallback(
        tf.data.Dataset.from_tensor_slices((X[REST], Y[REST])).batch(64), targets=X[TRAIN], target_labels=Y[TRAIN]
    )
    history = model.fit(X, Y, batch_size=60, epochs=2, callbacks=[known, plain], verbose=0).history
    assert (model.index_size(), model.indexer.is_calibrated) == (300, True)
    vectors = model.encode(X)
    nearest = Y[TRAIN][np.argmax(vectors[REST] @ vectors[TRAIN].T, axis=1)]
    hit, seen = nearest == Y[REST], Y[REST] < 3
    assert history["binary_accuracy"][-1] == pytest.approx(hit.mean())
    assert history["binary_accuracy_known_classes"][-1] == pytest.approx(hit[seen].mean())
    assert history["binary_accuracy_unknown_classes"][-1] == pytest.approx(hit[~seen].mean())
    order = np.argsort(-vectors[REST] @ vectors[TRAIN].T, axis=1)[:, :3]
    found = (Y[TRAIN][order] == Y[REST][:, None]).any(axis=1)
    assert history["recall@3_known_classes"][-1] == pytest.approx(found[seen].mean())
    assert list((tmp_path / "index").glob("events*"))


def test_eval_callback_known_values():
    """Two queries on one point with labels 1 and 2: published values."""
    model = make_model()
    callback = EvalCallback(X[[0, 0]], [1, 2], X[[0, 0]], [1, 2], metrics=["binary_accuracy", "f1"])
    callback.set_model(model)
    values = callback.evaluate()
    assert values == {"binary_accuracy": 0.5, "f1": pytest.approx(0.666667, rel=1e-5)}
    single = SplitValidationLoss(X[:2], [0, 1], X[TRAIN], Y[TRAIN], [0], distance_thresholds=[0.1, 0.2])
    single.set_model(model)
    assert set(single.evaluate()) == {
        f"binary_accuracy@{t}_{side}_classes" for t in ("0.1", "0.2") for side in ("known", "unknown")
    }
    nobody = EvalCallback(X[:2], [0, 0], X[TRAIN], Y[TRAIN], known_classes=[0])
    nobody.set_model(model)
    with pytest.raises(ConfigError, match="no query of unknown classes"):
        nobody.evaluate()
