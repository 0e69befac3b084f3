"""Augmenters: both ranges of values, seeds, counts and probabilities, and each change against an oracle."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from simpipe.augmenters import Augmenter, BarlowAugmenter, ContrastiveAugmenter, SimCLRAugmenter
from simpipe.augmenters.blur import random_blur
from simpipe.augmenters.color import color_jitter, random_grayscale, random_solarize
from simpipe.augmenters.geometry import centre_window, crop, random_flip_left_right, random_windows, resize
from simpipe.errors import ConfigError

SEED = tf.constant([1, 2], tf.int64)
PICTURES = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3)).astype(np.uint8)
MANY = np.random.default_rng(1).uniform(0.3, 0.6, (3000, 4, 4, 3)).astype(np.float32)
MAKE: dict[str, Any] = {
    "simclr": lambda **options: SimCLRAugmenter(16, 12, **options),
    "simclr v1": lambda **options: SimCLRAugmenter(16, 12, version="v1", **options),
    "evaluation": lambda **options: SimCLRAugmenter(16, 12, is_training=False, **options),
    "barlow": lambda **options: BarlowAugmenter(12, 16, **options),
    "solarized": lambda **options: BarlowAugmenter(12, 16, solarize_probability=1.0, **options),
}


@pytest.fixture(autouse=True)
def eager(request: pytest.FixtureRequest):
    """Tracing takes seconds a test: graphs are left to the test of pipelines."""
    tf.config.run_functions_eagerly("pipelines" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


def share(changed: np.ndarray, probability: float) -> None:
    """Asserts that as many are True as the probability says, within five standard deviations."""
    deviation = np.sqrt(probability * (1 - probability) / len(changed))
    assert abs(changed.mean() - probability) <= 5 * deviation


def different(a: Any, b: Any) -> np.ndarray:
    return (np.abs(np.asarray(a) - np.asarray(b)) > 1e-6).any(axis=(1, 2, 3))


@pytest.mark.parametrize("name", MAKE)
def test_the_range_of_values_does_not_matter(name: str) -> None:
    """The same pictures as uint8, as floats 0 to 255, 0 to 1 and -1 to 1 give the same views, of 0 to 1."""
    unit = PICTURES.astype(np.float32) / 255
    views = MAKE[name](seed=3)(PICTURES)
    assert [view.shape for view in views] == [(6, 16, 12, 3)] * 2
    for pictures, value_range in (
        (PICTURES.astype(np.float32), (0, 255)),
        (unit, None),
        (unit.astype(np.float64), (0, 1)),
        (2 * unit - 1, (-1, 1)),
        (PICTURES.astype(np.uint16) * 257, None),
    ):
        for view, other in zip(views, MAKE[name](seed=3, value_range=value_range)(pictures), strict=True):
            assert other.dtype == tf.float32
            assert 0 <= np.min(other) < np.max(other) <= 1
            # A value beside the threshold of solarization may be rounded over it.
            assert (np.abs(np.asarray(view) - np.asarray(other)) > 1e-3).mean() < 1e-3


@pytest.mark.parametrize("name", MAKE)
def test_the_same_seed_gives_the_same_views(name: str) -> None:
    first, second, other = (MAKE[name](seed=seed) for seed in (7, 7, 8))
    runs = [[np.stack(augmenter(PICTURES, None, 3, True)) for _ in range(2)] for augmenter in (first, second, other)]
    np.testing.assert_array_equal(runs[0], runs[1])
    pure = [np.stack(augmenter.views(PICTURES, 2, seed=SEED)) for augmenter in (first, other)]
    np.testing.assert_array_equal(pure[0], pure[1])
    if name == "evaluation":
        np.testing.assert_array_equal(runs[0][0][0], runs[2][1][2])
        return
    views = np.concatenate([run[call] for run in (runs[0], runs[2]) for call in range(2)])  # 12 of the same pictures
    for i in range(len(views)):
        assert all(different(views[i], views[j]).any() for j in range(i))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_number_of_views(count: int) -> None:
    for augmenter in (SimCLRAugmenter(8, 8), BarlowAugmenter(8, 8), ContrastiveAugmenter(lambda x: x)):
        assert len(augmenter(PICTURES, None, count, False)) == count
        assert len(augmenter.augment(list(PICTURES), num_augmentations_per_example=count)) == count


def test_images_of_a_batch_are_augmented_each_on_its_own() -> None:
    same = np.repeat(PICTURES[:1], 64, axis=0)
    for augmenter in (SimCLRAugmenter(20, 24, seed=1), BarlowAugmenter(24, 20, seed=1)):
        (view,) = augmenter(same, None, 1, True)
        assert len({picture.tobytes() for picture in np.asarray(view)}) == 64


def test_pipelines_draw_anew_for_every_batch() -> None:
    augmenter = SimCLRAugmenter(8, 8, seed=1)
    pictures = tf.data.Dataset.from_tensors(PICTURES).repeat(3)
    batches = list(pictures.map(lambda x: tuple(augmenter(x))))
    assert len({np.asarray(view).tobytes() for pair in batches for view in pair}) == 6
    # The pure form repeats exactly, also when batches are made side by side.
    seeds = tf.data.Dataset.random(seed=4).batch(2)
    pure = tf.data.Dataset.zip(pictures, seeds).map(lambda x, seed: augmenter.views(x, 2, seed=seed), num_parallel_calls=2)
    np.testing.assert_array_equal(list(pure), list(pure))
    assert len({np.asarray(views).tobytes() for views in pure}) == 3
    unit = (PICTURES / 255).astype(np.float32)
    expected = augmenter.view(tf.constant(unit), seed=tf.random.split(SEED, 2)[1])
    np.testing.assert_allclose(augmenter.views(PICTURES, 2, seed=SEED)[1], expected, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="value_range"):
        list(tf.data.Dataset.from_tensors(PICTURES.astype(np.float32)).map(lambda x: tuple(augmenter(x))))


def test_unchanged_and_grey_shares_of_simclr() -> None:
    view = SimCLRAugmenter(4, 4, crop=False, flip=False, seed=5)(MANY, None, 1, True)[0]
    share(different(view, MANY), 1 - 0.2 * 0.8)
    spread = np.ptp(np.asarray(view), axis=-1).max(axis=(1, 2))
    assert abs((spread < 1e-6).mean() - 0.2) < 0.05  # a strong change of saturation makes a few more grey
    view = SimCLRAugmenter(4, 4, crop=False, flip=False, jitter_strength=0.0, seed=5)(MANY, None, 1, True)[0]
    share(np.ptp(np.asarray(view), axis=-1).max(axis=(1, 2)) < 1e-6, 0.2)
    view = SimCLRAugmenter(4, 4, crop=False, color_distort=False, seed=5)(MANY, None, 1, True)[0]
    share(different(view, MANY), 0.5)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_probabilities(probability: float) -> None:
    flipped = random_flip_left_right(MANY, probability, seed=SEED)
    share(different(flipped, MANY), probability)
    mirrored = different(flipped, MANY)
    np.testing.assert_array_equal(np.asarray(flipped)[mirrored], MANY[mirrored][:, :, ::-1])
    share(different(random_solarize(MANY, probability, threshold=0.3, seed=SEED), MANY), probability)
    share(different(random_blur(MANY, probability, min_sigma=0.5, max_sigma=1.0, seed=SEED), MANY), probability)
    grey = np.asarray(random_grayscale(MANY, probability, seed=SEED))
    share(different(grey, MANY), probability)
    expected = np.repeat(MANY @ np.float32([[0.2989], [0.587], [0.114]]), 3, axis=-1)  # ITU-R BT.601
    np.testing.assert_allclose(grey[different(grey, MANY)], expected[different(grey, MANY)], atol=1e-5)


def test_solarize_inverts_from_the_threshold_upwards() -> None:
    x = np.float32([0.0, 0.2, 0.4, 0.5, 1.0]).reshape(1, 1, 5, 1)
    y = random_solarize(x, 1.0, threshold=0.4, seed=SEED)
    np.testing.assert_allclose(np.ravel(y), [0.0, 0.2, 0.6, 0.5, 0.0], atol=1e-6)
    # The threshold of 100 of 255 inverts the bright half of a picture of 0 to 255, and of 0 to 1.
    off = {f"{name}_probability": 0.0 for name in ("flip", "jitter", "greyscale", "blur")}
    for pictures in (np.full((2, 8, 8, 3), 200, np.uint8), np.full((2, 8, 8, 3), 200 / 255, np.float32)):
        view = BarlowAugmenter(8, 8, **off, solarize_probability=1.0, solarize_thresh=100)(pictures)[0]
        np.testing.assert_allclose(view, 55 / 255, atol=1e-5)
    unit = BarlowAugmenter(8, 8, **off, solarize_probability=1.0, solarize_pixel_max=1, solarize_thresh=0.9, value_range=(0, 255))
    np.testing.assert_allclose(unit(np.full((2, 8, 8, 3), 200.0))[0], 200 / 255, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_windows_lie_inside(full_height: int, full_width: int, height: int, width: int, seed: int) -> None:
    shape = tf.constant([50, full_height, full_width, 3])
    windows = np.asarray(random_windows(shape, height=height, width=width, seed=tf.constant([seed, 0], tf.int64)))
    top, left, heights, widths = windows.T
    assert (windows >= 0).all()
    assert (top + heights <= full_height * (1 + 1e-5)).all()
    assert (left + widths <= full_width * (1 + 1e-5)).all()
    ratio = (widths / heights) / (width / height)
    assert (ratio > 0.74).all()
    assert (ratio < 1.35).all()


def test_areas_of_windows() -> None:
    shape = tf.constant([5000, 40, 40, 3])
    windows = np.asarray(random_windows(shape, height=8, width=8, seed=SEED))
    area = windows[:, 2] * windows[:, 3] / 1600
    assert area.min() >= 0.08 - 1e-6
    assert area.max() <= 1 + 1e-6
    # Uniform below a half; above, some shapes do not fit and are drawn again.
    assert np.histogram(area, bins=5, range=(0.08, 0.5))[0].std() < 0.1 * (area < 0.5).sum() / 5
    assert 0.45 < area.mean() < 0.54
    ratio = np.log(windows[:, 3] / windows[:, 2])
    assert abs(ratio.mean()) < 0.02
    assert (np.abs(ratio) <= np.log(4 / 3) + 1e-5).all()
    centre = (windows[:, :2] + windows[:, 2:] / 2).mean(axis=0)
    np.testing.assert_allclose(centre, [20, 20], atol=0.5)


def test_impossible_windows_are_the_middle() -> None:
    windows = random_windows(tf.constant([3, 4, 100, 3]), height=8, width=8, seed=SEED, area=(0.9, 1.0))
    np.testing.assert_allclose(windows, [[0, 48, 4, 4]] * 3, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (40, 50), (20, 24), (13, 48)])
def test_resize_equals_tensorflow(height: int, width: int) -> None:
    x = (PICTURES / 255).astype(np.float32)
    expected = np.clip(tf.image.resize(x, (height, width), "bicubic", antialias=True), 0, 1)
    np.testing.assert_allclose(resize(x, height=height, width=width), expected, atol=1e-5)


def test_crops_follow_their_windows() -> None:
    x = (PICTURES / 255).astype(np.float32)
    # Whole pixels at their own size are the pixels themselves.
    windows = np.float32([[i, 2 * i, 8, 10] for i in range(6)])
    expected = [x[i, i : i + 8, 2 * i : 2 * i + 10] for i in range(6)]
    np.testing.assert_allclose(crop(tf.constant(x), windows, height=8, width=10), expected, atol=1e-5)
    middle = centre_window(tf.constant([1, 100, 50, 3]), height=20, width=40, proportion=0.8)
    np.testing.assert_allclose(middle, [[40, 5, 20, 40]], atol=1e-4)


def test_views_of_evaluation_are_the_middle() -> None:
    x = (PICTURES / 255).astype(np.float32)
    view = SimCLRAugmenter(10, 12, is_training=False, eval_crop_proportion=0.5)(x)[0]
    np.testing.assert_allclose(view, x[:, 5:15, 6:18], atol=1e-5)
    view = SimCLRAugmenter(20, 24, is_training=False, crop=False)(x)[0]
    np.testing.assert_allclose(view, x, atol=1e-6)


def jitter(x: np.ndarray, *, additive: bool = False, **changes: float) -> np.ndarray:
    none = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    return np.asarray(color_jitter(tf.constant(x), **{**none, **changes}, additive=additive, seed=SEED))


def test_brightness_and_contrast() -> None:
    x = MANY  # 0.3 to 0.6: within these changes nothing is cut
    factor = jitter(x, brightness=0.5) / x
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1, :1], x.shape), rtol=1e-4)
    assert (factor.min(), factor.max()) == pytest.approx((0.5, 1.5), abs=5e-3)
    assert factor.mean() == pytest.approx(1.0, abs=0.03)
    summand = jitter(x, brightness=0.2, additive=True) - x
    np.testing.assert_allclose(summand, np.broadcast_to(summand[:, :1, :1, :1], x.shape), atol=1e-5)
    assert (summand.min(), summand.max()) == pytest.approx((-0.2, 0.2), abs=2e-3)
    mean = x.mean(axis=(1, 2), keepdims=True)
    y = jitter(x, contrast=0.8)
    factor = ((y - mean) * (x - mean)).sum(axis=(1, 2, 3)) / ((x - mean) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(y, mean + (x - mean) * factor[:, None, None, None], atol=1e-4)
    assert (factor.min(), factor.max()) == pytest.approx((0.2, 1.8), abs=5e-3)


def test_saturation_and_hue() -> None:
    x = MANY[:200]
    hue, saturation, value = np.moveaxis(np.asarray(tf.image.rgb_to_hsv(x)), -1, 0)
    turned = np.moveaxis(np.asarray(tf.image.rgb_to_hsv(jitter(x, hue=0.2))), -1, 0)
    np.testing.assert_allclose(turned[1:], [saturation, value], atol=1e-4)
    turn = (turned[0] - hue + 0.5) % 1 - 0.5
    np.testing.assert_allclose(turn, np.broadcast_to(np.median(turn, axis=(1, 2), keepdims=True), turn.shape), atol=2e-3)
    assert (turn.min(), turn.max()) == pytest.approx((-0.2, 0.2), abs=6e-3)
    washed = jitter(x, saturation=0.9)
    factors = np.median(np.asarray(tf.image.rgb_to_hsv(washed))[..., 1] / saturation, axis=(1, 2))
    for i in range(3):
        np.testing.assert_allclose(washed[i], tf.image.adjust_saturation(x[i], factors[i]), atol=1e-4)
    assert (factors.min(), factors.max()) == pytest.approx((0.1, 1.9), abs=0.05)


def test_jitter_without_strength_changes_nothing_and_cuts_to_the_range() -> None:
    np.testing.assert_array_equal(jitter(MANY), MANY)
    x = (PICTURES / 255).astype(np.float32)
    y = jitter(x, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    assert different(x, y).all()
    assert y.min() >= 0
    assert y.max() <= 1


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0])
def test_blur_equals_scipy(sigma: float) -> None:
    x = np.random.default_rng(0).uniform(size=(2, 40, 30, 3)).astype(np.float32)
    y = np.asarray(random_blur(x, 1.0, min_sigma=sigma, max_sigma=sigma, seed=SEED))
    expected = gaussian_filter(x, (0, sigma, sigma, 0), truncate=8) if sigma else x
    inner = slice(12, -12)
    np.testing.assert_allclose(y[:, inner, inner], expected[:, inner, inner], atol=1e-4)
    flat = random_blur(np.full((1, 9, 9, 1), 0.5, np.float32), 1.0, min_sigma=sigma, max_sigma=sigma, seed=SEED)
    np.testing.assert_allclose(flat, 0.5, atol=1e-6)  # no dark border


def test_grey_pictures_keep_one_channel() -> None:
    for augmenter in (SimCLRAugmenter(8, 8, seed=1), BarlowAugmenter(8, 8, seed=1)):
        views = augmenter(PICTURES[..., :1])
        assert [view.shape for view in views] == [(6, 8, 8, 1)] * 2
        assert different(views[0], views[1]).all()


def test_names_of_tensorflow_similarity() -> None:
    """Its positional order, its misspelt name, and the number of processors that nothing depends on."""
    augmenter = SimCLRAugmenter(8, 9, True, False, 0.5, False, 0.9, False, "v1", 4)
    assert (augmenter.jitter_strength, augmenter.jitter_stength, augmenter.version) == (0.5, 0.5, "v1")
    assert SimCLRAugmenter(8, 9, jitter_stength=0.3).jitter_strength == 0.3
    view = BarlowAugmenter(12, 10, 0.5, 0.8, 0.6, 0.6, 0.2, 0.8, 0.2, 0.2, 0, 1, 0.2, 0, 255, 10, 4)(PICTURES)[0]
    assert view.shape == (6, 10, 12, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimCLRAugmenter(8, 8)(PICTURES.astype(np.float32)), r"(?s)value_range 0 to 1.*cure: .*value_range=\(0, 255\)"),
        (lambda: BarlowAugmenter(8, 8)(PICTURES[0]), r"images have the shape \(20, 24, 3\)"),
        (lambda: SimCLRAugmenter(8, 8)(PICTURES, None, 0, True), "0 views"),
        (lambda: SimCLRAugmenter(0, 8), "0 x 8 pixels"),
        (lambda: SimCLRAugmenter(8, 8, version="v3"), "'v3' is unknown"),
        (lambda: SimCLRAugmenter(8, 8, eval_crop_proportion=0), "eval_crop_proportion is 0"),
        (lambda: SimCLRAugmenter(8, 8, jitter_strength=-1), "jitter_strength is -1"),
        (lambda: SimCLRAugmenter(8, 8, value_range=(1, 1)), r"value_range is \(1, 1\)"),
        (lambda: BarlowAugmenter(8, 8, blur_probability=1.5), "blur_probability is 1.5"),
        (lambda: BarlowAugmenter(8, 8, blur_min_sigma=2), "blur_min_sigma is 2"),
        (lambda: BarlowAugmenter(8, 8, solarize_pixel_max=0), "solarize_pixel_max 0"),
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_function_of_the_users() -> None:
    def process(picture: tf.Tensor) -> tf.Tensor:
        assert picture.shape == (20, 24, 3)
        return tf.cast(picture[:10], tf.float32) / 255 + tf.random.uniform([])

    views = ContrastiveAugmenter(process, 2)(PICTURES, None, 3, True)
    assert [(view.shape, view.dtype) for view in views] == [((6, 10, 24, 3), tf.float32)] * 3
    added = np.asarray(views[0]) - PICTURES[:, :10] / 255
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1, :1], added.shape), atol=1e-5)
    assert len(np.unique(added[:, 0, 0, 0].round(5))) == 6
    whole = ContrastiveAugmenter(keras.layers.Rescaling(1 / 255), batched=True)(PICTURES)
    np.testing.assert_allclose(whole[1], PICTURES / 255, atol=1e-6)


def test_an_augmenter_of_the_users_is_called_as_samplers_do() -> None:
    class Shift(Augmenter):
        def augment(self, x: Any, y: Any, num_augmentations_per_example: int, is_warmup: bool) -> list[Any]:
            return [x + i + (100 if is_warmup else 0) for i in range(num_augmentations_per_example)]

    assert [view.tolist() for view in Shift()(np.array([1, 2]), None, 2, False)] == [[1, 2], [2, 3]]
    assert [view.tolist() for view in Shift()(np.array([1]))] == [[101], [102]]
