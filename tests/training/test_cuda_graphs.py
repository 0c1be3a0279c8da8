"""Recorded steps: the same training as without, whatever shapes come; on a CPU with a stand-in for the recorder."""

import copy

import pytest
import torch
from speechbrain import Stage

from tests.model_io.results import trees
from tests.networks import brain_settings, random_batch, tiny_modules
from unified_sess.model_io.module_tree import build
from unified_sess.training.brain import UnifiedBrain
from unified_sess.training.cuda_graphs import CALLS_BEFORE, MOST_SHAPES, Replay
from unified_sess.utils.errors import UserError


def flat(outputs):
    """The tensors of nested tuples and lists."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs or () for tensor in flat(part)]


def stand_in(function, inputs, pool):
    """Runs the function again and writes its results over the old ones, as a CUDA graph does."""
    outputs = function(*inputs)

    def replay():
        for place, tensor in zip(flat(outputs), flat(function(*inputs)), strict=True):
            place.copy_(tensor)

    return replay, outputs


def brain(
    modules, device="cpu", rule="gm", factor=1, precision="fp32", cuda_graphs=False, training_signal_len=4, **losses
):
    hparams = brain_settings(rule, cuda_graphs, training_signal_len, **losses)
    options = {"device": device, "precision": precision, "grad_accumulation_factor": factor}
    result = UnifiedBrain(copy.deepcopy(modules), lambda p: torch.optim.SGD(p, 1e-3), hparams, options)
    result.modules.train()
    result.init_optimizers()
    if precision == "fp16":
        result.scaler = torch.amp.GradScaler(
            "cuda", init_scale=16.0
        )  # the usual first steps overflow and change nothing
    return result


def train(brain, lengths):
    losses = []
    for step, length in enumerate(lengths, start=1):
        brain.step = step
        losses.append(float(brain.fit_batch(random_batch(length, seed=step))))
    return losses, [p.detach().cpu().clone() for p in brain.modules.parameters()]


STEPS = [[400, 400]] * 5 + [[300, 300]] * 2 + [[400, 250]] * 2 + [[400, 400]] * 3


@pytest.mark.parametrize("rule", ["gm", "sum", "pcgrad"])
@pytest.mark.parametrize("factor", [1, 3])
def test_replayed_steps_train_as_launched_ones(rule, factor):
    modules = tiny_modules()
    wanted = train(brain(modules, rule=rule, factor=factor), STEPS)
    replayed = brain(modules, rule=rule, factor=factor)
    replayed.replay = Replay(replayed._gradients_to_keep, record=stand_in)
    found = train(replayed, STEPS)
    assert len(replayed.replay.recorded) == 1  # the shape that came more than twice; unequal lengths never
    torch.testing.assert_close(found, wanted, equal_nan=True)


def sepreformer():
    return torch.nn.ModuleDict({name: build(tree, name) for name, tree in trees("sepreformer").items()})


def test_recording_a_step_is_no_step_of_the_running_statistics():
    """The recorder runs a step once more than it counts; dropout draws other numbers then, so there is none."""
    modules, losses = sepreformer(), {"step_weight": 0.4, "step_loss": "magnitude"}
    for part in modules.modules():
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    launched, replayed = brain(modules, **losses), brain(modules, **losses)
    replayed.replay = Replay(replayed._gradients_to_keep, stand_in, replayed.modules.buffers())
    lengths = [[400, 400]] * 5
    torch.testing.assert_close(train(replayed, lengths), train(launched, lengths))
    for wanted, found in zip(launched.modules.buffers(), replayed.modules.buffers(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_another_share_of_the_earlier_steps_is_recorded_anew():
    taught = brain(sepreformer(), step_weight=0.4, step_decay=[2, 0.5, 3])
    weights, replays = [], []
    for epoch in range(1, 9):
        taught.replay = taught.replay or Replay(taught._gradients_to_keep, stand_in)
        before = taught.replay
        taught.on_stage_start(Stage.TRAIN, epoch)
        weights.append(taught.loss_choice.step_weight)
        replays.append(taught.replay is before)
    assert weights == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1])
    assert replays == [True, True, False, True, True, False, True, True]


@pytest.mark.parametrize("enhancement", ["log_feature_distance", "snr"])
def test_replayed_steps_with_losses_in_db_train_as_launched_ones(enhancement):
    modules, losses = tiny_modules(), {"separation_loss": "snr", "enhancement_loss": enhancement}
    wanted = train(brain(modules, **losses), STEPS)
    replayed = brain(modules, **losses)
    replayed.replay = Replay(replayed._gradients_to_keep, record=stand_in)
    torch.testing.assert_close(train(replayed, STEPS), wanted)
    assert wanted[0] != train(brain(modules), STEPS)[0]


def test_only_shapes_that_come_again_are_recorded_and_not_too_many():
    calls = []
    replay = Replay(lambda x: calls.append(x.shape) or (x + 1,), record=stand_in)
    for size in range(1, MOST_SHAPES + 3):
        for call in range(CALLS_BEFORE + 2):
            x = torch.full((size,), float(call))
            assert torch.equal(replay(x)[0], x + 1)
        assert len(replay.recorded) == min(size, MOST_SHAPES)


def test_what_cannot_be_recorded_is_one_line():
    def fails(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    replay = Replay(lambda x: 2 * x, record=fails)
    for _ in range(CALLS_BEFORE):
        replay(torch.ones(2))
    with pytest.raises(UserError, match=r"when stream is capturing\): leave cuda_graphs False$"):
        replay(torch.ones(2))


def test_on_a_cpu_the_setting_changes_nothing():
    assert brain(tiny_modules(), cuda_graphs=True).replay is None


def test_signals_of_all_lengths_are_refused_in_one_line():
    with pytest.raises(UserError, match="give training_signal_len"):
        brain(tiny_modules(), cuda_graphs=True, training_signal_len=None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("backbone", ["convtasnet", "dprnn", "sepformer", "locoformer"])
@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1), ("bf16", 2), ("fp16", 1)])
def test_on_a_gpu_the_same_training(backbone, precision, factor):
    modules = ours(backbone)
    settings = {"device": "cuda", "precision": precision, "factor": factor}
    wanted_losses, wanted = train(brain(modules, **settings), STEPS)
    replayed = brain(modules, cuda_graphs=True, **settings)
    found_losses, found = train(replayed, STEPS)
    assert len(replayed.replay.recorded) == 1
    tolerance = 1e-3 if precision == "fp32" else 0.05  # rounding differs from run to run
    assert found_losses == pytest.approx(wanted_losses, abs=20 * tolerance)
    start, wanted, found = (
        torch.cat([p.detach().cpu().flatten() for p in ps]) for ps in (modules.parameters(), wanted, found)
    )
    assert (found - wanted).norm() < tolerance * (wanted - start).norm()


def ours(backbone):
    """A tiny network of our classes: SpeechBrain's dual-path model cannot be recorded."""
    from unified_sess.nnet import dual_path

    modules = tiny_modules("convtasnet")
    if backbone == "convtasnet":
        return modules
    if backbone == "locoformer":
        return torch.nn.ModuleDict({name: build(tree, name) for name, tree in trees(backbone).items()})
    for name, speakers in (("enhancer", 1), ("masknet", 2)):
        if backbone == "dprnn":
            blocks = [dual_path.SBRNNBlock(8, 8, 1, "LSTM", bidirectional=True) for _ in range(2)]
        else:
            blocks = [dual_path.SBTransformerBlock(1, 8, 2, d_ffn=16, dropout=0, norm_before=True) for _ in range(2)]
        modules[name] = dual_path.Dual_Path_Model(
            8,
            8,
            *blocks,
            num_layers=1,
            norm="ln",
            K=20,
            num_spks=speakers,
            linear_layer_after_inter_intra=backbone == "dprnn",
        )
    return modules
