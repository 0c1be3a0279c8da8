"""N ranks with batch b take the same steps as one process with batch N * b."""

import copy
import datetime
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.networks import random_batch
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.training import distributed
from unified_sess.training.distributed import (
    average_buffers,
    average_gradients,
    broadcast_parameters,
    lost_process_is_one_line,
)
from unified_sess.training.joint_step import JointStep
from unified_sess.training.loss_totals import Validation
from unified_sess.training.utterance_losses import UtteranceLosses
from unified_sess.utils.errors import UserError

RULES = ("sum", "gm", "pcgrad", "remedy", "torchjd:MGDA")
SITUATIONS = [
    {"batches": [[2, 2]] * 3},
    {"threshold": -0.9, "batches": [[2, 2]] * 4},  # ranks keep different numbers of utterances
    {"accumulation": 2, "batches": [[2, 2]] * 4},
    {"batches": [[2, 2], [2, 2], [1, 0]]},  # a short last batch leaves the last rank without utterances
    {"batches": [[2, 2]] * 4, "nonfinite": (1, 1)},
    {"batches": [[2, 2]] * 3, "threshold": -0.9, "accumulation": 3, "granularity": "global"},
    {"batches": [[2, 2]] * 3, "dtype": torch.float32, "granularity": "module"},
]
CASES = [{"rule": rule} | situation for rule in RULES for situation in SITUATIONS]


def network(dtype):
    """Two tiny tasks with conflicting gradients; the decoder has a parameter that nothing uses."""
    generator = torch.Generator().manual_seed(1)
    modules = torch.nn.ModuleDict(
        {name: torch.nn.Linear(5, 5) for name in ("encoder", "enhancer", "masknet", "decoder")}
    )
    modules["decoder"].register_parameter("unused", torch.nn.Parameter(torch.zeros(3)))
    for parameter in modules.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return modules.to(dtype)


def losses(modules, inputs):
    """`[batch, 10]` to losses of the utterances; only the shapes of the real ones matter here."""
    x, target = inputs.chunk(2, dim=1)
    features = torch.tanh(modules["enhancer"](torch.tanh(modules["encoder"](x))))
    output = modules["decoder"](torch.tanh(modules["masknet"](features)))
    separation = -torch.nn.functional.cosine_similarity(output, target, dim=1) * 1.5
    return UtteranceLosses(separation, (features + target).square().sum(1), output, (features,))


def train(case, world, rank=None):
    """Parameters and kept counts after the steps of a case; `rank` None takes the whole batch."""
    dtype = case.get("dtype", torch.float64)
    modules = network(dtype)
    modulation = GradientModulation(case.get("rule", "gm"), case.get("granularity", "tensor"))
    step = JointStep(modules, modulation, 0.5, case.get("threshold"))
    optimizer = torch.optim.Adam(modules.parameters(), 0.01)
    generator = torch.Generator().manual_seed(2)
    decisions = []
    for number, sizes in enumerate(case["batches"], 1):
        parts = [torch.randn(sizes[r > 0 and r == world - 1], 10, generator=generator).to(dtype) for r in range(world)]
        bad = case.get("nonfinite")
        if bad is not None and bad[0] == number:
            parts[bad[1]][0, 0] = float("nan")
        inputs = torch.cat(parts) if rank is None else parts[rank]
        step.accumulate(losses(modules, inputs) if len(inputs) else None)
        if number % case.get("accumulation", 1) == 0:
            count, finite = step.merge()
            decisions.append((int(count), bool(finite)))
            if count > 0 and finite:
                optimizer.step()
            optimizer.zero_grad()
    return [p.detach() for p in modules.parameters()], decisions


def _worker(rank, world, folder, job):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=20)
    )
    torch.save(job(rank, world), f"{folder}/result{rank}")
    dist.destroy_process_group()


def _all_cases(rank, world):
    distributed.BUCKET_BYTES = 300  # many buckets
    modules = network(torch.float64)
    with torch.no_grad():
        for parameter in modules.parameters():
            parameter += rank
    broadcast_parameters(modules)
    norm = torch.nn.BatchNorm1d(3).double()
    norm.running_mean += rank
    average_buffers(norm)
    return {
        "buffers": norm.running_mean,
        "cases": [train(case, world, rank) for case in CASES],
        "broadcast": [p.detach() for p in modules.parameters()],
    }


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_equal_one_process(world, tmp_path):
    pytest.importorskip("torchjd")
    mp.spawn(_worker, (world, str(tmp_path), _all_cases), nprocs=world)
    results = [torch.load(tmp_path / f"result{rank}") for rank in range(world)]
    for number, case in enumerate(CASES):
        expected, decisions = train(case, world)
        limit = 1e-5 if case.get("dtype") == torch.float32 else 1e-10
        for result in results:
            parameters, rank_decisions = result["cases"][number]
            assert rank_decisions == decisions, case
            for a, b, c in zip(parameters, expected, results[0]["cases"][number][0]):
                torch.testing.assert_close(a, b, rtol=limit, atol=limit, msg=str(case))
                assert torch.equal(a, c), "ranks drift apart"
    for result in results:
        torch.testing.assert_close(result["buffers"], torch.full((3,), (world - 1) / 2, dtype=torch.float64))
        for a, b in zip(result["broadcast"], network(torch.float64).parameters()):
            assert torch.equal(a, b)


def test_cases_are_what_they_claim():
    decisions = {key: train(next(case for case in CASES if key in case), 2)[1] for key in ("threshold", "nonfinite")}
    assert any(0 < count < 4 for count, _ in decisions["threshold"])
    assert [finite for _, finite in decisions["nonfinite"]] == [False, True, True, True]
    gm, plain = (train({"rule": rule, "batches": [[2, 2]] * 3}, 2)[0] for rule in ("gm", "sum"))
    assert not all(torch.equal(a, b) for a, b in zip(gm, plain)), "no conflict: the comparison proves nothing"


def test_one_process_divides_by_the_count():
    gradients = [torch.full((2,), 6.0), None]
    (means,), count = average_gradients([gradients], torch.tensor(3), like=[torch.zeros(2)] * 2)
    assert means[0].tolist() == [2, 2] and means[1] is None and count == 3
    (zeros,), _ = average_gradients([[torch.zeros(2)]], torch.tensor(0), like=[torch.zeros(2)])
    assert zeros[0].tolist() == [0, 0]


def _dies(rank, world):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

    def average():
        average_gradients([[torch.ones(3)]], torch.tensor(1), like=[torch.ones(3)])

    lines = []
    for exchange in (average, dist.barrier):  # in a step, and anywhere else
        try:
            with lost_process_is_one_line():
                for _ in range(100):
                    exchange()
                    time.sleep(0.01)
        except UserError as error:
            lines.append(str(error))
    return lines


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_with_one_line(tmp_path):
    context = mp.get_context("spawn")
    processes = [context.Process(target=_worker, args=(rank, 2, str(tmp_path), _dies)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert not any(process.is_alive() for process in processes)
    lines = torch.load(tmp_path / "result0")
    assert len(lines) == 2
    assert all(line.startswith("another training process ended") and "\n" not in line for line in lines)


def _validates(rank, world):
    batch = random_batch([400] * 5)
    separation = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
    results = []
    for bad in (None, 4):
        validation = Validation()
        for row in range(rank, 5, world):  # the last rank has fewer
            one = batch._replace(
                ids=[batch.ids[row]],
                **{n: getattr(batch, n)[row : row + 1] for n in ("mixture", "clean", "sources", "lengths")},
            )
            loss = separation[row : row + 1] * (float("nan") if row == bad else 1)
            validation.add(one, UtteranceLosses(loss, None, one.sources, ()))
        results.append(validation.end())
    return results


@pytest.mark.slow
def test_validation_is_sharded_and_decided_once(tmp_path):
    """Regression: every rank validated everything and decided on its own."""
    mp.spawn(_worker, (2, str(tmp_path), _validates), nprocs=2)
    first, second = (torch.load(tmp_path / f"result{rank}") for rank in range(2))
    (whole, *_), (failed, _, names) = _validates(0, 1)
    assert str(first) == str(second)
    assert first[0][0] == pytest.approx(whole) and whole["loss_ss"] == -3.0
    assert first[1][2] == names == ["u4"] and str(first[1][0]) == str(failed)


def test_other_failures_keep_their_own_words():
    with pytest.raises(RuntimeError, match="out of memory"), lost_process_is_one_line():
        raise RuntimeError("CUDA error: out of memory")


def test_step_leaves_the_network_alone():
    modules = network(torch.float64)
    before = copy.deepcopy(modules.state_dict())
    step = JointStep(modules, GradientModulation("gm"), 0.5, None)
    step.accumulate(losses(modules, torch.randn(2, 10, dtype=torch.float64)))
    step.merge()
    assert all(torch.equal(before[key], value) for key, value in modules.state_dict().items())
