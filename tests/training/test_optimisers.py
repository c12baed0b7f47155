from __future__ import annotations

import pytest
import torch
from torch import nn

from percepta.errors import BadInput
from percepta.training.optimisers import make_optimiser, parameter_groups, rate_factors
from percepta.training.recipe import RatesRecipe


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    net.register_parameter("logit_scale", nn.Parameter(torch.tensor(2.0)))
    return net


def test_vectors_and_scalars_do_not_decay() -> None:
    net = model()
    decayed, plain = parameter_groups(net.named_parameters(), 0.3)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 5)]
    assert len(plain["params"]) == 4
    net[0].weight.requires_grad_(False)
    assert len(parameter_groups(net.named_parameters(), 0.3)) == 1


def test_lamb_is_adam_plus_decay_scaled_by_the_trust_ratio() -> None:
    """Three steps against the closed form, written out for one matrix and one vector."""
    net, rate, decay, epsilon = model(), 0.01, 0.1, 1e-6
    optimiser = make_optimiser("lamb", net, rate, decay, (0.9, 0.95), epsilon)
    matrix, vector = net[0].weight.detach().clone(), net[0].bias.detach().clone()
    moments = {
        name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in (("m", matrix), ("v", vector))
    }
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 4):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        directions = {}
        for name, parameter in (("m", net[0].weight), ("v", net[0].bias)):
            first, second = moments[name]
            first.mul_(0.9).add_(parameter.grad, alpha=0.1)
            second.mul_(0.95).add_(parameter.grad**2, alpha=0.05)
            directions[name] = (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + epsilon)
        update = directions["m"] + decay * matrix
        matrix -= rate * matrix.norm() / update.norm() * update
        vector -= rate * directions["v"]
        optimiser.step()
        torch.testing.assert_close(net[0].weight.detach(), matrix)
        torch.testing.assert_close(net[0].bias.detach(), vector)


def test_trust_ratio_of_zero_weights_is_one() -> None:
    net = model()
    nn.init.zeros_(net[0].weight)
    optimiser = make_optimiser("lamb", net, 0.5, 0.1)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    torch.testing.assert_close(net[0].weight.detach(), torch.full((4, 5), -0.5))


def test_adamw_is_the_one_of_torch() -> None:
    ours, theirs = model(), model()
    mine = make_optimiser("adamw", ours, 0.01, 0.1, (0.8, 0.9))
    groups = parameter_groups(theirs.named_parameters(), 0.1)
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), foreach=False, fused=False)
    for _ in range(3):
        for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
            first.grad = second.grad = torch.randn_like(first)
        mine.step()
        reference.step()
    for first, second in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(first, second)


def test_unknown_optimiser_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean 'adamw'"):
        make_optimiser("adam", model(), 0.1)


def test_muon_steps_block_matrices_and_adamw_the_rest() -> None:
    """The block's matrix moves as torch's Muon alone would move it, everything else as AdamW alone."""
    torch.manual_seed(0)
    nets = [nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(6, 4)), "head": nn.Linear(4, 3)}) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    mine = make_optimiser("muon", nets[0], 0.01, 0.1, (0.9, 0.95))
    matrix = nets[1]["blocks"][0].weight
    rest = parameter_groups([(n, p) for n, p in nets[1].named_parameters() if p is not matrix], 0.1)
    theirs = [
        torch.optim.Muon([matrix], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), fused=True),
    ]
    for step in range(3):
        for first, second in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            first.grad = second.grad = torch.randn_like(first)
        for optimiser in (mine, *theirs):
            for group in optimiser.param_groups:
                group["lr"] = 0.01 / (step + 1)
            optimiser.step()
    for (name, first), second in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, msg=name)


def test_muon_needs_blocks() -> None:
    with pytest.raises(BadInput, match="use adamw for this one"):
        make_optimiser("muon", model(), 0.1)


class Trunk(nn.Module):
    """Something before two blocks, something after them."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.ones(1, 4))
        self.patch_embed = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm = nn.LayerNorm(4)


def learner() -> nn.Module:
    net = nn.Module()
    net.model = nn.Module()
    net.model.encoder = nn.Module()
    net.model.encoder.trunk = Trunk()
    net.model.head = nn.Linear(4, 2)
    return net


def test_layer_decay_counts_blocks_and_spares_what_is_exempt() -> None:
    rates = RatesRecipe(layer_decay=0.5, layers="encoder.trunk", exempt=("*pos_embed*",), factors={"encoder.*": 0.1})
    factors = {name.removeprefix("model."): value for name, value in rate_factors(learner(), rates).items()}
    wanted = {
        "encoder.trunk.pos_embed": 0.1,
        "encoder.trunk.patch_embed.weight": 0.1 / 8,
        "encoder.trunk.blocks.0.bias": 0.1 / 4,
        "encoder.trunk.blocks.1.weight": 0.1 / 2,
        "encoder.trunk.norm.weight": 0.1,
        "head.weight": 1.0,
    }
    assert {name: factors[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_every_optimiser_gets_the_factors(name: str) -> None:
    net = learner()
    rates = RatesRecipe(layer_decay=0.5, layers="encoder.trunk")
    optimiser = make_optimiser(name, net, 1e-3, 0.1, rates=rates)
    own = {id(p): group["factor"] for group in optimiser.param_groups for p in group["params"]}
    factors = rate_factors(net, rates)
    assert {n: own[id(p)] for n, p in net.named_parameters()} == pytest.approx(factors)
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert all((decays[id(p)] > 0) == (p.ndim > 1) for p in net.parameters())


def test_rates_that_fit_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'trunk.*' fits none"):
        rate_factors(learner(), RatesRecipe(factors={"trunk.*": 0.1}))
    with pytest.raises(BadInput, match="head has none"):
        rate_factors(learner(), RatesRecipe(layer_decay=0.5, layers="head"))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_recipe_takes_tensors_out_of_decay(name: str) -> None:
    net = learner()
    optimiser = make_optimiser(name, net, 0.1, 0.5, rates=RatesRecipe(undecayed=("head.*",)))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    decayed = {name for name, parameter in net.named_parameters() if decay[id(parameter)]}
    assert decayed == {n for n, p in net.named_parameters() if p.ndim > 1 and not n.startswith("model.head.")}
    with pytest.raises(BadInput, match=r"'tail' fits none"):
        make_optimiser(name, net, 0.1, 0.5, rates=RatesRecipe(undecayed=("tail",)))
