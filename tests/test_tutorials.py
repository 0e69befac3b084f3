"""What TensorFlow Similarity's two tutorials do, call by call, with only the import name changed: the same names, arguments
and order of calls, on small real data that TFDS prepared without network.

Their own numbers of epochs and steps would take hours on a CPU; these tests train less and look at what comes out.
"""

from __future__ import annotations

import random

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from make_tfds import make_cifar10, make_mnist
from matplotlib import pyplot as plt
from mpl_toolkits import axes_grid1
from tensorflow import keras
from tensorflow.keras import layers

import simpipe as tfsim


@pytest.fixture(scope="module")
def _tfds_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    make_mnist(folder)
    make_cifar10(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        patch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(folder), raising=False)
        yield folder
    plt.close("all")


@pytest.mark.usefixtures("_tfds_data")
def test_minimal_mnist():
    from simpipe.layers import MetricEmbedding
    from simpipe.losses import MultiSimilarityLoss
    from simpipe.models import SimilarityModel
    from simpipe.samplers import TFDatasetMultiShotMemorySampler
    from simpipe.visualization import viz_neigbors_imgs

    sampler = TFDatasetMultiShotMemorySampler(dataset_name="mnist", classes_per_batch=10)
    sampler.steps_per_epoch = 20

    inputs = layers.Input(shape=(28, 28, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu")(x)
    outputs = MetricEmbedding(64)(x)
    model = SimilarityModel(inputs, outputs)
    model.compile("adam", loss=MultiSimilarityLoss())
    history = model.fit(sampler, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]

    sx, sy = sampler.get_slice(0, 100)
    assert (sx.shape, sx.dtype, sy.shape) == ((100, 28, 28, 1), np.uint8, (100,))
    model.index(x=sx, y=sy, data=sx)
    assert model.index_size() == 100

    qx, qy = sampler.get_slice(3713, 1)
    nns = model.single_lookup(qx[0])
    assert len(nns) == 5
    similar = model.encode(sx) @ model.encode(qx)[0]
    best = np.argsort(-similar)[:5]
    np.testing.assert_allclose([n.distance for n in nns], 1 - similar[best], atol=1e-5)
    assert [n.label for n in nns] == sy[best].tolist()
    assert (nns[0].data == sx[best[0]]).all()
    viz_neigbors_imgs(qx[0], qy[0], nns)
    shown = [axes for axes in plt.gcf().axes if axes.images]
    assert len(shown) == 6
    many_x, many_y = sampler.get_slice(1000, 300)
    right = np.mean([row[0].label for row in model.lookup(many_x, k=1)] == many_y)
    assert right > 0.6  # of ten classes, by 100 indexed digits


@pytest.mark.usefixtures("_tfds_data")
def test_cifar10_walk_through(capsys):
    tfsim.utils.tf_cap_memory()
    assert tfsim.__version__
    num_known_classes = 10
    class_list = random.sample(population=range(10), k=num_known_classes)
    train_ds = tfsim.samplers.TFDatasetMultiShotMemorySampler(
        "cifar10",
        classes_per_batch=min(10, num_known_classes),
        splits="train",
        steps_per_epoch=20,
        examples_per_class_per_batch=8,
        class_list=class_list,
    )
    val_ds = tfsim.samplers.TFDatasetMultiShotMemorySampler(
        "cifar10", classes_per_batch=10, splits="test", total_examples_per_class=100
    )

    x_slice, y_slice = train_ds.get_slice(begin=0, size=25)
    grid = axes_grid1.ImageGrid(plt.figure(figsize=(6.0, 6.0)), 111, nrows_ncols=(5, 5), axes_pad=0.1)
    for ax, im, _ in zip(grid, x_slice, y_slice, strict=True):
        ax.imshow(im)
        ax.axis("off")

    inputs = keras.layers.Input((32, 32, 3))
    x = keras.layers.Rescaling(scale=1.0 / 255)(inputs)
    for filters, pool in ((16, False), (32, True), (32, False)):
        x = keras.layers.Conv2D(filters, 3, activation="relu")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.MaxPool2D((4, 4))(x) if pool else x
    x = keras.layers.GlobalMaxPool2D()(x)
    outputs = tfsim.layers.MetricEmbedding(64)(x)
    model = tfsim.models.SimilarityModel(inputs, outputs)
    model.summary()
    model.compile(optimizer=keras.optimizers.Adam(0.002), loss=tfsim.losses.MultiSimilarityLoss(), steps_per_execution=10)
    history = model.fit(train_ds, epochs=3, validation_data=val_ds, validation_steps=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert len(history.history["val_loss"]) == 3

    x_index, y_index = val_ds.get_slice(begin=0, size=200)
    model.reset_index()
    model.index(x_index, y_index, data=x_index)

    x_train, y_train = train_ds.get_slice(begin=0, size=1000)
    calibration = model.calibrate(
        x_train,
        y_train,
        calibration_metric="f1",
        matcher="match_nearest",
        extra_metrics=["precision", "recall", "binary_accuracy"],
        verbose=1,
    )
    assert "optimal" in capsys.readouterr().out

    labels = ["Airplane", "Automobile", "Bird", "Cat", "Deer", "Dog", "Frog", "Horse", "Ship", "Truck", "Unknown"]
    class_mapping = dict(enumerate(labels))
    x_display, y_display = val_ds.get_slice(begin=200, size=10)
    nns = model.lookup(x_display, k=5)
    for idx in np.argsort(y_display):
        tfsim.visualization.viz_neigbors_imgs(
            x_display[idx], y_display[idx], nns[idx], class_mapping=class_mapping, fig_size=(16, 2)
        )

    _, (ax1, ax2) = plt.subplots(1, 2, figsize=(15, 5))
    for name in ("precision", "recall", "f1"):
        ax1.plot(calibration.thresholds["distance"], calibration.thresholds[name], label=name)
        assert len(calibration.thresholds[name]) == len(calibration.thresholds["distance"])
    ax2.plot(calibration.thresholds["recall"], calibration.thresholds["precision"])
    plt.show()

    x_confusion, y_confusion = val_ds.get_slice(0, -1)
    assert np.bincount(y_confusion).tolist() == [100] * 10
    matches = model.match(x_confusion, cutpoint="optimal", no_match_label=10)
    _, cm = tfsim.visualization.confusion_matrix(
        matches, y_confusion, labels=labels, title="Confusion matrix for cutpoint:optimal", normalize=False
    )
    counted = np.zeros((11, 11), int)
    np.add.at(counted, (y_confusion, np.array(matches)), 1)
    assert (np.asarray(cm) == counted).all()
    assert np.trace(counted) > 400  # of 1,000, of ten classes

    idx_no_match = np.where(np.array(matches) == 10)
    assert len(x_confusion[idx_no_match]) == counted[:, 10].sum()

    vx, vy = val_ds.get_slice(0, 1000)
    page = tfsim.visualization.projector(
        model.predict(vx, verbose=0), labels=vy, images=vx, class_mapping=class_mapping, image_size=96, plot_size=800
    )
    assert "Automobile" in page.html
    assert "://" not in page.html  # nothing is fetched
