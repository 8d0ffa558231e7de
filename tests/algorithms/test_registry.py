"""What the planner and the runtime rely on in every algorithm, on every machine of the catalogue."""

import math
from dataclasses import replace

import numpy as np
import pytest

from algorithms.cases import ODD, bases
from algorithms.layers import KERNELS, dense
from waterline.algorithms import REGISTRY, REGISTRY_CONFIGS, Algorithm, Views, by_name
from waterline.algorithms.blocking import GemmConfig
from waterline.codegen.cpu.jit import compile_object
from waterline.codegen.cpu.kernel import Clock, Input, Number, Output, Packed, Workspace
from waterline.machine import CATALOGUE, Machine
from waterline.runtime.phases import timed_phases
from waterline.spec import Activation, ConvSpec, Epilogue

FULL = Epilogue(bias=True, before=Activation("relu"), residual=True)
SPECS = [ConvSpec.parse(text).with_epilogue(FULL) for text in ODD] + [spec.with_epilogue(FULL) for spec in bases(16)]
LARGE = [
    ConvSpec.parse(text)
    for text in (
        "n1_c256_h56_w56_k64_r1_s1_st1_pd0_dl1_g1",
        "n1_c512_h7_w7_k512_r3_s3_st1_pd1_dl1_g1",
        "n1_c144_h56_w56_k144_r3_s3_st1_pd1_dl1_g144",
        "n1_c128_h56_w56_k128_r3_s3_st1_pd1_dl1_g16",
        "n1_c2048_h1_w1_k1000_r1_s1_st1_pd0_dl1_g1",
    )
]

every_algorithm = pytest.mark.parametrize("algorithm", REGISTRY, ids=lambda a: a.name)
every_machine = pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)


def views_of(spec: ConvSpec) -> Views:
    out = (spec.n, spec.k, spec.p, spec.q)
    return Views(dense((spec.n, spec.c, spec.h, spec.w)), dense(out), dense(out) if spec.epilogue.residual else None)


def served(algorithm: Algorithm, machine: Machine) -> list[ConvSpec]:
    return [spec for spec in SPECS if algorithm.refuse(spec, machine) is None]


def test_the_list():
    names = [algorithm.name for algorithm in REGISTRY]
    assert len(set(names)) == len(names)
    assert names[-1] == "naive", "the last resort comes last"
    assert all(by_name(name).name == name for name in names)
    assert set(names) <= set(KERNELS), "say in KERNELS which kernels the new algorithm is made of"
    with pytest.raises(KeyError):
        by_name("none")


@every_machine
def test_the_last_resort_serves_everything(machine: Machine):
    assert all(REGISTRY[-1].refuse(spec, machine) is None for spec in SPECS + LARGE)


@every_algorithm
def test_refusals_have_reasons(algorithm: Algorithm):
    refusals = [algorithm.refuse(spec, machine) for machine in CATALOGUE for spec in SPECS + LARGE]
    assert all(refusal is None or len(refusal.reason) > 10 for refusal in refusals)
    assert None in refusals, "an algorithm that serves none of these layers is not tested by them"


@every_machine
@every_algorithm
def test_configs_are_few_and_ranked_by_a_cost_that_makes_sense(algorithm: Algorithm, machine: Machine):
    for spec in served(algorithm, machine) + [s for s in LARGE if algorithm.refuse(s, machine) is None]:
        configs = algorithm.configs(spec, machine)
        assert configs == algorithm.configs(spec, machine)
        assert 1 <= len(configs) <= 40
        assert len(set(configs)) == len(configs), "the same config twice"
        assert all(isinstance(config, REGISTRY_CONFIGS) for config in configs), "plans could not be written down"
        for config in configs:
            cost = algorithm.cost(spec, config, machine)
            assert math.isfinite(cost.seconds), spec.id
            assert cost.seconds > 0, spec.id
            assert cost.flops > 0, spec.id
            assert algorithm.cost(spec.with_batch(8), config, machine).seconds >= cost.seconds


@every_machine
@every_algorithm
def test_tiles_fit_the_registers(algorithm: Algorithm, machine: Machine):
    for spec in served(algorithm, machine) + [s for s in LARGE if algorithm.refuse(s, machine) is None]:
        for config in algorithm.configs(spec, machine):
            if isinstance(config, GemmConfig):
                needed = config.rows * config.vectors + config.vectors + 1
                assert needed <= machine.vector_registers, (spec.id, config)


@every_machine
@every_algorithm
def test_calls_name_only_what_there_is(algorithm: Algorithm, machine: Machine):
    """Every packed array and workspace that a call names exists, and every input is one that the layer has."""
    random = np.random.default_rng(0)
    for spec in served(algorithm, machine)[::4]:
        config, views = algorithm.configs(spec, machine)[0], views_of(spec)
        weight = random.standard_normal((spec.k, spec.group_c, spec.r, spec.s), np.float32)
        bias = random.standard_normal(spec.k, np.float32)
        packed = algorithm.pack_weights(spec, config, weight, bias, machine)
        packed |= algorithm.pack_tables(spec, config, views, machine)
        implementation = algorithm.implement(spec, config, views, machine)
        for call in implementation.calls:
            assert call.items >= 1
            assert 1 <= call.chunk <= call.items
            for arg in call.args:
                match arg:
                    case Input(index):
                        assert index in (0, 3), "x, and the residual behind weight and bias"
                    case Packed(name):
                        assert name in packed
                    case Workspace(name):
                        assert implementation.workspaces[name] > 0
                    case _:
                        assert isinstance(arg, Number | Output | Clock)


@every_machine
@every_algorithm
def test_phases_cover_the_layer(algorithm: Algorithm, machine: Machine):
    """An algorithm that states phases times each of them, and nothing else: what `profile` shows adds up."""
    for spec in served(algorithm, machine):
        for config in algorithm.configs(spec, machine):
            phases = algorithm.phases(spec, config, machine)
            if not phases:
                continue
            calls = algorithm.implement(spec, config, views_of(spec), machine).calls
            timed = [timed_phases(call) for call in calls]
            assert all(timed), f"{spec.id} {config}: a call without a name"
            assert {name for names in timed for name in names} == {phase.name for phase in phases}
            assert len({phase.name for phase in phases}) == len(phases)
            assert all(phase.flops >= 0 and phase.bytes >= 0 for phase in phases)
            assert any(phase.flops > 0 for phase in phases)


@every_algorithm
def test_tables_and_weights_do_not_depend_on_the_batch(algorithm: Algorithm):
    machine = CATALOGUE[0]
    for spec in served(algorithm, machine)[::3]:
        config = algorithm.configs(spec, machine)[0]
        weight = np.ones((spec.k, spec.group_c, spec.r, spec.s), np.float32)
        bias = np.ones(spec.k, np.float32)
        for make in (
            lambda s, c=config: algorithm.pack_tables(s, c, views_of(s), machine),
            lambda s, c=config, w=weight, b=bias: algorithm.pack_weights(s, c, w, b, machine),
        ):
            one, four = make(spec), make(spec.with_batch(4))
            assert one.keys() == four.keys()
            assert all(one[name].tobytes() == four[name].tobytes() for name in one)


@every_machine
@every_algorithm
def test_emission_is_pure(algorithm: Algorithm, machine: Machine):
    """The same recipe gives the same text and the same key; the key tells machines and recipes apart."""
    spec = next((s for s in served(algorithm, machine)), None)
    assert spec is not None
    config = algorithm.configs(spec, machine)[-1]
    for call in algorithm.implement(spec, config, views_of(spec), machine).calls:
        again = replace(call.kernel)
        assert again == call.kernel
        assert again.key(machine) == call.kernel.key(machine)
        assert again.emit("f", machine) == call.kernel.emit("f", machine)
        keys = {call.kernel.key(other) for other in CATALOGUE}
        assert len(keys) == len({(m.target(), m.vector_bytes) for m in CATALOGUE})


def test_the_same_text_gives_the_same_object():
    machine = CATALOGUE[4]
    spec = bases(8)[1]
    algorithm = by_name("indirect")
    call = algorithm.implement(spec, algorithm.configs(spec, machine)[0], views_of(spec), machine).calls[0]
    text = call.kernel.emit("f", machine)
    assert compile_object(text, machine) == compile_object(text, machine)


def test_depthwise_refuses_filter_rows_that_it_would_unroll_for_minutes():
    spec = ConvSpec.parse("n1_c4_h1_w4096_k4_r1_s1024_st2_pd0x512_dl1_g4")
    refusal = by_name("depthwise").refuse(spec, CATALOGUE[0])
    assert refusal is not None
    assert "1024" in refusal.reason
