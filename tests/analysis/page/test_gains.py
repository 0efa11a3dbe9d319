"""The page's section of what training adds."""

from __future__ import annotations

import math

from analysis.page.gains import TrainingGain, training_gain

PLACEBO = {"source": "CORUM", "placebo": "well_position", "recall": 0.25, "low": 0.2, "high": 0.3, "chance": 0.1,
           "model": "<vit>", "model_recall": 0.3, "share": 0.75, "suspect": True}  # fmt: skip


def test_what_is_said_is_escaped_and_a_suspect_placebo_is_marked() -> None:
    shown = training_gain(TrainingGain(["a < b"], ["why"], ["position"], [PLACEBO], b"png"))
    assert "a &lt; b" in shown
    assert "&lt;vit&gt;" in shown
    assert "Not known for why." in shown
    assert "half or more" in shown
    assert "75%" in shown
    assert 'src="data:image/png;base64,cG5n"' in shown


def test_without_anything_to_show_there_is_no_section_image_or_table() -> None:
    assert training_gain(None) == ""
    shown = training_gain(TrainingGain(["said"]))
    assert "<img" not in shown
    assert "Placebos" not in shown


def test_what_an_initialisation_is_of_continued_training_and_of_given_weights_is_said() -> None:
    shown = training_gain(TrainingGain(["said"]))
    assert "seeds where there are several" in shown
    assert "continues another cell's training" in shown
    assert "initial weights, such as ImageNet's, the initialisation has them" in shown


def test_a_share_of_nothing_is_left_empty() -> None:
    shown = training_gain(TrainingGain([], placebos=[PLACEBO | {"share": math.inf, "suspect": False}]))
    assert "inf" not in shown.replace("information", "")
    assert "half or more" not in shown
