from plinth.domain.fleet import ModelKey
from plinth.domain.naming import resolve_names
from plinth.tests.domain.builders import make_model


def test_a_model_answers_to_its_own_name_and_to_namespace_and_name() -> None:
    names = resolve_names([make_model("chat", "team-a")])
    assert names[ModelKey("team-a", "chat")].names == ("chat", "team-a/chat")


def test_the_served_name_takes_the_place_of_the_own_name() -> None:
    names = resolve_names([make_model("chat", served_name="gpt-x")])
    assert names[ModelKey("default", "chat")].names == ("gpt-x", "default/chat")


def test_the_one_seen_first_keeps_a_name_that_two_want() -> None:
    older = make_model("chat", "team-b", first_seen=1.0)
    younger = make_model("chat", "team-a", first_seen=2.0)
    for order in ([older, younger], [younger, older]):
        names = resolve_names(order)
        assert names[older.key].names == ("chat", "team-b/chat")
        assert names[younger.key].names == ("team-a/chat",)
        assert names[younger.key].collision.startswith("team-b/chat already answers to the name chat")


def test_nobody_can_take_the_full_name_of_another_however_old() -> None:
    thief = make_model("thief", first_seen=0.0, served_name="team-a/chat")
    owner = make_model("chat", "team-a", first_seen=9.0)
    names = resolve_names([thief, owner])
    assert "team-a/chat already answers" in names[thief.key].collision
    assert names[owner.key].collision == ""


def test_a_model_may_be_served_by_its_full_name_alone() -> None:
    names = resolve_names([make_model("chat", served_name="default/chat")])
    assert names[ModelKey("default", "chat")].names == ("default/chat",)


def test_seen_at_the_same_time_the_first_by_name_wins() -> None:
    first, second = make_model("a", served_name="x"), make_model("b", served_name="x")
    assert resolve_names([second, first])[first.key].collision == ""
