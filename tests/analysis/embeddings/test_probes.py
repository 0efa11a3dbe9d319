"""Linear probes find the block that holds the labels; channel tests detect order and subsets."""

import numpy as np
import pytest

from analysis.embeddings.probes import best_block, channel_agreement, linear_probe, probe_blocks


def blocks(seed=0):
    """Three blocks: noise, labels, labels under noise; a shift of its own in every experiment."""
    rng = np.random.default_rng(seed)
    label = np.tile(np.arange(5), 60)
    experiment = np.repeat([f"e{i}" for i in range(4)], 75)
    signal = 3 * rng.normal(size=(5, 12))[label] + 0.5 * np.repeat(rng.normal(size=(4, 12)), 75, axis=0)
    noise = rng.normal(size=(300, 12))
    features = {0: noise, 1: signal + noise, 2: signal + 6 * noise}
    return features, [f"c{i}" for i in label], experiment.tolist()


def test_the_block_that_holds_the_labels_is_best():
    probes = probe_blocks(*blocks(), test=["e3"])
    assert best_block(probes) == 1
    assert probes[1].balanced_accuracy > 0.95
    assert probes[0].balanced_accuracy < 0.4
    assert probes[0].balanced_accuracy < probes[2].balanced_accuracy < probes[1].balanced_accuracy
    assert probes[1].chance == pytest.approx(0.2)


def test_a_probe_is_scikit_learn_s_ridge():
    models = pytest.importorskip("sklearn.linear_model")
    features, label, experiment = blocks()
    test = np.array(experiment) == "e3"
    found = linear_probe(features[2], label, test)
    values = (features[2] - features[2][~test].mean(axis=0)) / features[2][~test].std(axis=0)
    level = (values[~test] ** 2).sum() / 12
    _, code = np.unique(np.array(label), return_inverse=True)
    ridge = models.Ridge(alpha=found.ridge * level).fit(values[~test], np.eye(5)[code[~test]])
    expected = (ridge.predict(values[test]).argmax(axis=1) == code[test]).mean()
    assert found.accuracy == pytest.approx(expected)


def test_classes_that_were_not_trained_on_are_counted():
    features, label, experiment = blocks()
    label[-1] = "new"
    probe = linear_probe(features[1], label, np.array(experiment) == "e3")
    assert (probe.unseen_wells, probe.classes) == (1, 5)


@pytest.mark.parametrize(("test", "message"), [(["e9"], "unknown"), (["e0", "e1", "e2", "e3"], "none left")])
def test_training_and_test_experiments_must_not_be_empty(test, message):
    with pytest.raises(ValueError, match=message):
        probe_blocks(*blocks(), test=test)


def test_order_does_not_matter_to_a_model_that_sums_channels_and_a_subset_does():
    channels = np.random.default_rng(0).normal(size=(50, 6, 8))  # wells, channels, features
    shown = {"reversed": channels[:, ::-1].sum(axis=1), "three": channels[:, :3].sum(axis=1)}
    same, subset = channel_agreement(channels.sum(axis=1), shown)
    assert (same.median_cosine, same.retrieved) == (pytest.approx(1), 1)
    assert 0.5 < subset.median_cosine < 0.9
    with pytest.raises(ValueError, match="three: embeddings of shape"):
        channel_agreement(channels.sum(axis=1), {"three": np.ones((50, 3))})
