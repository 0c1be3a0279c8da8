"""What a folder that holds a run accepts: compared before anything is written."""

import pytest
import torch

from unified_sess.training.experiment import Experiment
from unified_sess.training.resuming import refuse_another_run
from unified_sess.utils.errors import UserError

NETWORK = """
encoder: !new:speechbrain.lobes.models.dual_path.Encoder {kernel_size: 16, out_channels: 16}
enhancer: !new:unified_sess.network.NoEnhancer
masknet: !new:unified_sess.nnet.conv_tasnet.MaskNet {N: 16, B: 8, H: 16, P: 3, X: %s, R: 1, C: 2}
decoder: !new:speechbrain.lobes.models.dual_path.Decoder {in_channels: 16, out_channels: 1, kernel_size: 16, stride: 8}
"""
EXPERIMENT = """
seed: 1
output_folder: results
save_folder: !ref <output_folder>/save
data_folder: null
num_spks: 2
sample_rate: 8000
freeze: []
number_of_epochs: 2
batch_size: 4
lr: 0.001
num_workers: 0
training_signal_len: 2.0
network: !include:net2.yaml
modules:
    encoder: !ref <network[encoder]>
    enhancer: !ref <network[enhancer]>
    masknet: !ref <network[masknet]>
    decoder: !ref <network[decoder]>
"""


@pytest.fixture
def run(tmp_path):
    """Settings of an experiment for a folder that holds a run of it."""
    for layers in (2, 3):
        (tmp_path / f"net{layers}.yaml").write_text(NETWORK % layers, encoding="utf-8")
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT, encoding="utf-8")
    output, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    base = {"output_folder": str(output), "data_folder": str(data)}

    def settings(**overrides):
        return Experiment(file, base | overrides).settings

    (output / "save" / "CKPT+1").mkdir(parents=True)
    Experiment(file, base).save(output / "hyperparams.yaml")
    return settings


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"number_of_epochs": 9},
        {"lr": 0.1},
        {"num_workers": 2},
        {"batch_size": 1},
        {"training_signal_len": None},
    ],
)
def test_what_may_change_changes(run, change):
    refuse_another_run(run(**change))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"network": "net3"}, r"network: masknet.X is 3, there 2"),
        ({"num_spks": 3}, "num_spks is 3, there 2"),
        ({"sample_rate": 16000}, "sample_rate is 16000, there 8000"),
        ({"freeze": ["decoder"]}, r"freeze is \['decoder'\], there null"),
        ({"seed": 2}, "seed is 2, there 1"),
        ({"data_folder": "/elsewhere"}, "data_folder is /elsewhere, there .*data"),
    ],
)
def test_a_finished_run_is_never_damaged_by_other_settings(run, tmp_path, change, says):
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=says) as caught:
        refuse_another_run(run(**change))
    assert "--output_folder" in str(caught.value) and "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_network_of_another_class_is_named(run, tmp_path):
    text = (tmp_path / "out" / "hyperparams.yaml").read_text(encoding="utf-8")
    renamed = text.replace("unified_sess.nnet.conv_tasnet.MaskNet", "unified_sess.nnet.other.Net")
    (tmp_path / "out" / "hyperparams.yaml").write_text(renamed, encoding="utf-8")
    with pytest.raises(UserError, match="network: masknet is a MaskNet, there a Net"):
        refuse_another_run(run())


def test_data_that_moved_are_the_same_data(run, tmp_path):
    (tmp_path / "data").rename(tmp_path / "moved")
    refuse_another_run(run(data_folder=str(tmp_path / "moved")))
    (tmp_path / "data").symlink_to(tmp_path / "moved")
    refuse_another_run(run(data_folder=str(tmp_path / "moved")))


def test_a_folder_without_a_checkpoint_holds_no_run(run, tmp_path):
    (tmp_path / "out" / "save" / "CKPT+1").rmdir()
    refuse_another_run(run(network="net3"))


def test_settings_that_cannot_be_read_are_one_line(run, tmp_path):
    (tmp_path / "out" / "hyperparams.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="give another --output_folder"):
        refuse_another_run(run())


def test_weights_of_another_network_are_one_line(tmp_path):
    from unified_sess.training.checkpoints import AtomicCheckpointer

    AtomicCheckpointer(tmp_path, {"a": torch.nn.Linear(2, 2)}).save_checkpoint()
    with pytest.raises(UserError, match="does not fit this experiment") as caught:
        AtomicCheckpointer(tmp_path, {"a": torch.nn.Linear(3, 2)}).recover_if_possible()
    assert "\n" not in str(caught.value)
