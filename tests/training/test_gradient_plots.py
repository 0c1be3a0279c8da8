"""Pictures of gradient statistics."""

import csv
import math
import random

import pytest
from matplotlib.image import imread

from unified_sess.training.gradient_plots import _read, draw_gradient_plots, shortened
from unified_sess.utils.errors import UserError

COLUMNS = ["epoch", "level", "name", "conflict_rate", "cosine", "se_norm", "ss_norm"]


def table(path, layers, epochs, gap=False):
    """A table as training writes it, with an undefined cell."""
    generator = random.Random(0)
    names = ["encoder.conv1d", "enhancer.norm"]
    names += [
        f"enhancer.dual_mdl.{i // 12}.intra_mdl.mdl.layers.{i % 12}.self_att.att.out_proj" for i in range(layers - 2)
    ]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for epoch in range(1, epochs + 1):
            for i, name in enumerate(names):
                cosine = 0.3 * (i / layers - 0.6) + generator.gauss(0, 0.05)
                numbers = [min(1, max(0, 0.5 - cosine)), cosine, 1.0, 2.0]
                if gap and i == 1 and epoch == 1:
                    numbers[:2] = ["", ""]
                writer.writerow([epoch, "module", name, *numbers])
                writer.writerow([epoch, "tensor", name + ".weight", *numbers])
    return path


@pytest.mark.parametrize("layers, epochs", [(2, 1), (10, 3), (200, 2)])
def test_pictures_grow_with_the_layers(tmp_path, layers, epochs):
    paths = draw_gradient_plots(table(tmp_path / "gradients.csv", layers, epochs, gap=True), tmp_path / "plots")
    assert [p.name for p in paths] == ["cosine.png", "conflict_rate.png"]
    height = imread(paths[0]).shape[0]
    assert height >= 17 * layers, "labels of 7 points need 17 pixels a layer"
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["conflict_rate.png", "cosine.png"]


def test_values_stand_where_they_belong(tmp_path):
    names, epochs, values = _read(table(tmp_path / "gradients.csv", 5, 4, gap=True))
    assert names[:2] == ["encoder.conv1d", "enhancer.norm"] and epochs == [1, 2, 3, 4]
    with open(tmp_path / "gradients.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["level"] == "module":
                value = values["cosine"][names.index(row["name"]), int(row["epoch"]) - 1]
                assert value == float(row["cosine"]) if row["cosine"] else math.isnan(value)


def test_tensorboard_gets_both(tmp_path):
    logged = []

    class Writer:
        def add_figure(self, name, figure, step):
            logged.append((name, step))

    draw_gradient_plots(table(tmp_path / "gradients.csv", 3, 4), tmp_path, tensorboard=Writer())
    assert logged == [("gradients/cosine", 4), ("gradients/conflict_rate", 4)]


def test_long_names_keep_both_ends():
    short = shortened("enhancer.dual_mdl.0." + 9 * "very.long." + "intra_mdl.mdl.layers.11.self_att.att.out_proj")
    assert len(short) <= 80 and short.startswith("enhancer.dual") and short.endswith("11.self_att.att.out_proj")


def test_a_table_without_layers_is_one_line(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no rows of level 'module'"):
        draw_gradient_plots(tmp_path / "x.csv", tmp_path)
