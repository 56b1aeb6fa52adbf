"""A batch split over ranks trains like the whole batch on one (docs/reliability.md#distributed-training)."""

from dataclasses import replace
from itertools import accumulate
from math import ceil
from operator import itemgetter
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from tests.helpers.processes import run_ranks
from tests.helpers.training_steps import WIDTH, gradients, make_batch, make_objective, share
from tests.reference import losses as reference
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from ascl_lightning.data.batch import map_tensors
from ascl_lightning.errors import UserError
from ascl_lightning.losses import SoftTargetInfoNCE, TripletLoss
from ascl_lightning.models.perturb import NoiseStream, ZeroOut
from ascl_lightning.models.similarity.aggregation import LearnedWeights, TopKMean
from ascl_lightning.models.similarity.late_interaction import LateInteraction
from ascl_lightning.models.towers.convolutional import ConvImageEncoder
from ascl_lightning.runtime.draws import keyed_uniform
from ascl_lightning.training.terms import LossWeights

SCORES = {
    "pairwise": {"similarity": {"local_weight": 0.6, "global_fusion": "pairwise", "text_gate": True}},
    "paper": {"similarity": {"local_weight": 0.8, "global_fusion": "pairwise"}, "first_stage_weight": 0.5},
    "distilled": {"similarity": {"local_weight": 0.8, "global_fusion": "none"}, "distillation_weight": 0.3},
    "soft": {
        "similarity": {"local_weight": 0.0, "global_fusion": "none"},
        "first_stage_weight": 0.2,
        "loss": SoftTargetInfoNCE,
    },
    "independent": {"similarity": {"local_weight": 0.3, "global_fusion": "independent", "normalize_words": True}},
    "global": {"similarity": {"local_weight": 0.0, "global_fusion": "none"}, "first_stage_weight": 0.2},
    "local": {"similarity": {"local_weight": 1.0, "global_fusion": "independent"}},
    "late": {
        "similarity": {
            "local_weight": 0.7,
            "global_fusion": "pairwise",
            "local": lambda: LateInteraction(over_regions=TopKMean(2), over_words=LearnedWeights(WIDTH)),
        }
    },
}
COUNTS = [*(pytest.param(counts, marks=pytest.mark.slow) for counts in ((3, 3), (4, 1))), (2, 3, 1)]
SIZE = 6
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
}


def step(batch, dtype=torch.float64, **arguments):
    """Loss terms and gradients of a batch, or of a rank's part of it."""
    module, objective = make_objective(**arguments)
    module.to(dtype)
    batch.images.pooled, batch.images.tokens = batch.images.pooled.to(dtype), batch.images.tokens.to(dtype)
    terms = objective(batch)
    terms.loss.backward()
    return {name: value.item() for name, value in terms.of_batch().items()}, gradients(module)


def step_of_rank(counts, dtype=torch.float64, **arguments):
    """The same with gradients averaged over ranks, as in DDP."""
    terms, found = step(share(make_batch(sum(counts)), counts, dist.get_rank()), dtype, **arguments)
    for gradient in found.values():
        dist.all_reduce(gradient)
        gradient /= len(counts)
    return terms, found


def train(counts, optimizer):
    """Parameters after 20 steps, on one rank of one or many."""
    module, objective = make_objective(**SCORES["pairwise"])
    module.forward = lambda batch: objective(batch).loss
    wrapped = DistributedDataParallel(module) if dist.is_initialized() else module
    stepper = OPTIMIZERS[optimizer](module.parameters())
    for seed in range(20):
        batch = make_batch(sum(counts), seed)
        stepper.zero_grad()
        wrapped(share(batch, counts, dist.get_rank()) if dist.is_initialized() else batch).backward()
        stepper.step()
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def work_of_rank(counts):
    """All results that the tests below compare, so that processes start only once."""
    runs = {
        (name, chunk_size): step_of_rank(counts, **arguments, chunk_size=chunk_size)
        for name, arguments in SCORES.items()
        for chunk_size in (None, 2)
    }
    runs["parts"] = step_of_rank(counts, **SCORES["paper"], fused_batch_size=2)
    runs["float32"] = step_of_rank(counts, torch.float32, **SCORES["pairwise"])
    return runs | {optimizer: train(counts, optimizer) for optimizer in OPTIMIZERS}


@pytest.fixture(scope="module", params=COUNTS, ids=str)
def ranks(request):
    """Number of pairs on each rank, and its results."""
    return request.param, run_ranks(work_of_rank, len(request.param), request.param)


@pytest.mark.parametrize("name", SCORES)
def test_ranks_have_the_gradients_of_the_whole_batch(ranks, name):
    counts, of_ranks = ranks
    expected_terms, expected = step(make_batch(sum(counts)), **SCORES[name])
    module, _ = make_objective(**SCORES[name])
    assert set(expected) == {of for of, p in module.named_parameters() if p.requires_grad}, "none is left out"
    for results in of_ranks:
        for chunk_size in (None, 2):
            terms, found = results[name, chunk_size]
            assert terms == pytest.approx(expected_terms, rel=1e-12)
            assert set(found) == set(expected)
            for parameter, gradient in expected.items():
                assert (found[parameter] - gradient).norm() < 1e-10 * gradient.norm(), (chunk_size, parameter)


@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-10), ("adam", 1e-7)])
def test_twenty_steps_of_ddp_give_the_same_parameters(ranks, optimizer, tolerance):
    counts, of_ranks = ranks
    expected = train(counts, optimizer)
    for results in of_ranks:
        for name, parameter in expected.items():
            torch.testing.assert_close(results[optimizer][name], parameter, rtol=0, atol=tolerance)


def test_float32_gradients_differ_only_by_rounding(ranks):
    counts, of_ranks = ranks
    _, expected = step(make_batch(sum(counts)), torch.float32, **SCORES["pairwise"])
    for results in of_ranks:
        for name, gradient in expected.items():
            assert (results["float32"][1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_chunks_have_the_gradients_of_the_whole_batch(name, chunk_size):
    batch = make_batch(SIZE)
    terms, expected = step(batch, **SCORES[name])
    chunked_terms, found = step(batch, **SCORES[name], chunk_size=chunk_size)
    assert chunked_terms == pytest.approx(terms, rel=1e-12)
    for parameter, gradient in expected.items():
        assert (found[parameter] - gradient).norm() <= 1e-12 * gradient.norm(), parameter


@pytest.mark.parametrize(("name", "parts"), [*((name, {}) for name in SCORES), ("paper", {"fused_batch_size": 2})])
def test_images_held_once_train_like_repeated_ones(name, parts):
    places = torch.tensor([0, 0, 1, 2, 2, 2])
    repeated = make_batch(SIZE)
    once = replace(repeated, images=share(repeated, (3, 3), 0).images, image_places=places)
    images = once.images
    repeated.images = replace(images, **{part: getattr(images, part)[places] for part in ("pooled", "tokens", "mask")})
    repeated.image_ids = repeated.text_image_ids = once.image_ids = once.text_image_ids = places
    arguments = SCORES[name] | parts
    (expected, gradients_of_repeated), (terms, found) = step(repeated, **arguments), step(once, **arguments)
    assert terms == pytest.approx(expected, rel=1e-12)
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, gradients_of_repeated[parameter], rtol=1e-9, atol=1e-12)


def of_parts(batch, parts, arguments):
    """Terms and gradients if fused scores are contrasted within parts, and embeddings in the whole batch."""
    size = len(batch.image_ids)
    terms, found = step(batch, **arguments)
    fused_terms, of_fused = step(batch, **arguments | {"first_stage_weight": 0.0})
    terms = {name: value for name, value in terms.items() if name == "first_stage"} | dict.fromkeys(fused_terms, 0.0)
    found = {name: gradient - of_fused.get(name, 0.0) for name, gradient in found.items()}
    for part in parts:
        values, of_part = step(map_tensors(batch, itemgetter(part)), **arguments | {"first_stage_weight": 0.0})
        for name, value in values.items():
            terms[name] += len(part) / size * value
        for name, gradient in of_part.items():
            found[name] = found[name] + len(part) / size * gradient
    terms["loss"] += arguments.get("first_stage_weight", 0.0) * terms.get("first_stage", 0.0)
    return terms, found


@pytest.mark.parametrize("name", sorted(SCORES.keys() - {"distilled"}))
@pytest.mark.parametrize(
    ("size", "parts"), [(2, [[0, 3], [1, 4], [2, 5]]), (4, [[0, 2, 4], [1, 3, 5]]), (9, [[0, 1, 2, 3, 4, 5]])]
)
def test_fused_scores_are_contrasted_within_parts(name, size, parts):
    expected, of_parts_found = of_parts(make_batch(SIZE), parts, SCORES[name])
    terms, found = step(make_batch(SIZE), **SCORES[name], fused_batch_size=size)
    assert terms == pytest.approx(expected, rel=1e-9)
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, of_parts_found[parameter], rtol=1e-9, atol=1e-12)


def test_parts_do_not_reach_over_ranks(ranks):
    counts, results = ranks
    first = list(accumulate(counts, initial=0))
    parts = [
        list(range(start, start + count))[part :: ceil(count / 2)]
        for start, count in zip(first, counts, strict=False)
        for part in range(ceil(count / 2))
    ]
    expected, gradients_of_parts = of_parts(make_batch(sum(counts)), parts, SCORES["paper"])
    for result in results:
        terms, found = result["parts"]
        assert terms == pytest.approx(expected, rel=1e-9)
        for parameter, gradient in found.items():
            torch.testing.assert_close(gradient, gradients_of_parts[parameter], rtol=1e-9, atol=1e-12)


def test_parts_of_one_pair_and_distillation_in_parts_are_refused():
    with pytest.raises(ValueError, match="at least 2 pairs"):
        make_objective(**SCORES["paper"], fused_batch_size=1)
    with pytest.raises(UserError, match=r"model\.fused_batch_size to null"):
        make_objective(**SCORES["distilled"], fused_batch_size=2)


def test_towers_with_batch_normalisation_are_not_run_in_chunks():
    _, objective = make_objective(**SCORES["global"], chunk_size=2)
    objective.model.image_encoder = ConvImageEncoder(32)
    with pytest.raises(UserError, match=r"ConvImageEncoder has batch normalisation.*chunk_size"):
        objective(make_batch(SIZE))


@pytest.mark.parametrize(
    "wrong", [{"type_i": -1.0}, {"type_i": 0.0, "type_ii_iii": 0.0}, {"distillation": -0.1}], ids=str
)
def test_invalid_weights_are_refused(wrong):
    with pytest.raises(ValueError, match="weights of the loss"):
        LossWeights(**wrong)


def test_chunks_without_rows_are_refused():
    with pytest.raises(ValueError, match="at least 1 row"):
        make_objective(**SCORES["global"], chunk_size=0)


def test_distillation_needs_another_score_and_a_temperature():
    with pytest.raises(UserError, match=r"nothing to distil: set model\.distillation_weight to 0"):
        make_objective({"local_weight": 0.0, "global_fusion": "independent"}, distillation_weight=0.1)
    with pytest.raises(UserError, match="TripletLoss has no temperature"):
        make_objective(
            {"local_weight": 0.5}, distillation_weight=0.1, loss=lambda margin, learn_temperature: TripletLoss(margin)
        )


def test_soft_targets_come_from_the_text_tower():
    module, objective = make_objective(**SCORES["soft"])
    batch, seen = make_batch(SIZE), []
    module["loss"].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].text_to_text))
    objective(batch)
    encoder = objective.model.text_encoder
    towers = [normalize(encoder(texts).pooled) for texts in (batch.texts, batch.positives.texts, batch.texts)]
    assert len(seen) == 3  # T, T+, and the first stage
    for found, vectors in zip(seen, towers, strict=True):
        torch.testing.assert_close(found, (vectors @ vectors.T).detach())
        assert not found.requires_grad


def test_distillation_is_the_divergence_of_embeddings_from_the_fused_score():
    module, objective = make_objective(**SCORES["distilled"])
    batch = make_batch(SIZE)
    model = objective.model
    images, texts = model.encode_images(batch.images), model.encode_texts(batch.texts)
    fused = model.score(images, texts)
    cosines = normalize(images.pooled) @ normalize(texts.pooled).T
    ids, tau = batch.image_ids.tolist(), 0.2
    rows = reference.divergence(cosines.tolist(), fused.tolist(), tau, tau, ids)
    columns = reference.divergence(cosines.T.tolist(), fused.T.tolist(), tau, tau, ids)
    terms = objective(batch)
    assert terms.of_rank["distillation"].item() == pytest.approx((rows + columns) / 2, rel=1e-6)
    assert terms.weights["distillation"] == 0.3
    assert "first_stage" not in terms.of_rank
    terms.of_rank["distillation"].backward()
    assert all(p.grad is None for p in module["loss"].parameters()), "the temperature learns from the other terms"


def test_an_evaluation_batch_is_refused():
    _, objective = make_objective(**SCORES["global"])
    batch = make_batch(SIZE)
    batch.sampling_keys = None
    with pytest.raises(ValueError, match="sampling_keys"):
        objective(batch)


def test_a_perturbation_that_no_score_reads_is_not_a_valid_negative():
    _, objective = make_objective({"local_weight": 0.0, "global_fusion": "none"})
    objective.word_features.operations = (ZeroOut(),)
    objective.word_features.thresholds = torch.zeros(0)
    batch = make_batch(SIZE)
    batch.negatives = batch.positives = None
    with mock.patch.object(objective.loss, "forward", wraps=objective.loss.forward) as loss:
        objective(batch)
    # zeroes a random word, which does not change the global vector, or a random dimension
    whole_word = keyed_uniform(batch.sampling_keys, (1,), NoiseStream.KIND)[:, 0] < 0.5
    assert 0 < whole_word.sum() < SIZE
    assert torch.equal(loss.call_args.args[0].negative_valid, ~whole_word)


def test_first_stage_scores_are_float32_under_autocast():
    module, objective = make_objective(**SCORES["global"])
    module.float()
    batch, seen = make_batch(4), []
    batch.images.pooled, batch.images.tokens = batch.images.pooled.float(), batch.images.tokens.float()
    module["loss"].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].similarity.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        objective(batch)
    assert set(seen) == {torch.float32}
