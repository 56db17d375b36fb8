"""Learning what other models would say (`aizuchi.train.distill`)."""

import pytest
import torch
import torch.nn.functional as F

from aizuchi.errors import AizuchiError
from aizuchi.train.distill import Teachers
from aizuchi.train.start import make_model
from tests.train.tiny import config_of, trainer_of


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Folders of two models of other seeds."""
    root = tmp_path_factory.mktemp("teachers")
    made = [make_model(config_of(root, seed=seed)) for seed in (7, 8)]
    for number, model in enumerate(made):
        model.save_pretrained(root / str(number))
    return [str(root / str(number)) for number in range(2)]


def distilled(tmp_path, taught, weight, start=0, **changes):
    config = config_of(
        tmp_path,
        model=None,
        checkpoint=taught[start],
        distill=dict(teachers=taught if start == 0 else taught[:start], weight=weight),
        loss=dict(text_padding_weight=0.3),
        micro_batch_size=4,
        **changes,
    )
    return trainer_of(config)


def test_the_loss_is_a_cross_entropy_to_the_mean_of_the_teachers_where_words_are(tmp_path, taught):
    trainer = distilled(tmp_path, taught, 0.4)
    inputs = trainer.inputs(trainer.batches[0][0])
    labels = inputs["text_labels"][:, 1:]
    with torch.no_grad():
        outputs = trainer.model(**inputs)
        means = torch.stack(
            [
                make_model(config_of(tmp_path, model=None, checkpoint=path))
                .eval()(**{n: x for n, x in inputs.items() if not n.endswith("labels")})
                .logits.softmax(-1)
                for path in taught
            ]
        ).mean(0)[:, :-1]
        change = trainer.teachers.change(outputs.logits, inputs)
    words = (labels > 3) & (labels < 40)
    assert 5 < words.sum() < (labels >= 0).sum()
    ours = outputs.logits[:, :-1][words]
    soft = F.cross_entropy(ours, means[words], reduction="sum")
    hard = F.cross_entropy(ours, labels[words], reduction="sum")
    torch.testing.assert_close(change, 0.4 * (soft - hard), rtol=1e-4, atol=1e-4)
    # and so a step has it: beside the text's loss, by the same weight
    weight = words.sum() + 0.3 * ((labels == 3) | (labels == 0)).sum()
    told = trainer.train_step(trainer.batches[0])["text_loss"]
    assert told == pytest.approx(float(outputs.text_loss + change / weight), rel=1e-4)


def test_ids_that_cannot_be_said_have_no_share(tmp_path, taught):
    trainer = distilled(tmp_path, taught, 1.0)
    inputs = trainer.inputs(trainer.batches[0][0])
    words = inputs["text_labels"][:, 1:] > 3
    never = torch.arange(40) >= 20
    means = trainer.teachers.means(inputs, words, never)
    assert (means[:, 20:] == 0).all()
    torch.testing.assert_close(means.sum(-1), torch.ones(len(means)))
    free = trainer.teachers.means(inputs, words)
    one = free[:, :20] / free[:, :20].sum(-1, keepdim=True)
    assert (free[:, 20:] > 0).all()
    assert not torch.allclose(means[:, :20], one)  # each teacher's own, then the mean


def test_a_student_stays_near_its_teacher_which_does_not_change(tmp_path, taught):
    def apart(weight):
        # the second learns from the first
        trainer = distilled(tmp_path / str(weight), taught, weight, start=1, steps=30)
        teacher = trainer.teachers.models[0]
        before = [p.clone() for p in teacher.parameters()]
        trainer.run()
        assert all(map(torch.equal, before, teacher.parameters()))
        assert not any(p.requires_grad for p in teacher.parameters())
        inputs = trainer.inputs(trainer.batches[0][0])
        words = inputs["text_labels"][:, 1:] > 3
        with torch.no_grad():
            ours = trainer.model.eval()(
                **{n: x for n, x in inputs.items() if not n.endswith("labels")}
            ).logits
        theirs = trainer.teachers.means(inputs, words)
        return float(F.kl_div(ours[:, :-1][words].log_softmax(-1), theirs, reduction="batchmean"))

    assert apart(1.0) < 0.2 * apart(0.01)


def test_text_alone_is_learned_from_teachers_too(tmp_path, taught):
    trainer = distilled(tmp_path, taught, 0.5, text_only=dict(train="x", share=0.5, frames=16), steps=4)
    asked = []
    means = trainer.teachers.means
    trainer.teachers.means = lambda *given: asked.append(given[0]["audio_labels"] is None) or means(*given)
    trainer.run()
    assert len(asked) == 4 and {True, False} == set(asked)


def test_teachers_that_do_not_fit_are_refused(tmp_path, taught):
    other = make_model(config_of(tmp_path, model=dict(vocab_size=50)))
    student = make_model(config_of(tmp_path)).config
    with pytest.raises(AizuchiError, match="text_output_size of number 1 is 50, the model's is 40"):
        Teachers([other], student, 0.5)
    with pytest.raises(AizuchiError, match="must name models"):
        config_of(tmp_path, distill=dict(teachers=[]))
    with pytest.raises(AizuchiError, match="weight must be above 0"):
        config_of(tmp_path, distill=dict(teachers=taught, weight=1.5))
    with pytest.raises(AizuchiError, match="runs/nowhere"):
        trainer_of(config_of(tmp_path, distill=dict(teachers=["runs/nowhere"])))
