"""The interpreter of transcripts: what is not so is told, with its place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from transcripts.disk import at_once
from transcripts.language import Book, Unknown, act
from transcripts.play import check, play, write_anew
from transcripts.script import Wrong, read, rewrite, transcripts
from transcripts.stage import Stage

SMALL = """\
# A small one.

participants: stock
one starts
    one      ══▶ journal   epoch 1

alice executes: stock
    alice    ──▶ one       execute
    one      ··▶ journal   begun
    one      ──▶ journal   delegated to stock?
"""


def checked(tmp_path: Path, text: str) -> None:
    path = tmp_path / "small.txt"
    path.write_text(text, encoding="utf-8")
    check(path, Stage())


def test_a_right_transcript_is_right(tmp_path: Path) -> None:
    checked(tmp_path, SMALL)


def test_a_wrong_line_is_told_with_its_place_and_both_outputs(tmp_path: Path) -> None:
    with pytest.raises(Wrong) as caught:
        checked(tmp_path, SMALL.replace("   begun", "   begin"))
    told = str(caught.value)
    assert told.startswith("small.txt:9: 'alice executes: stock' does not produce this line\n")
    assert "expected: one      ··▶ journal   begin\ngot:      one      ··▶ journal   begun\n" in told
    assert "-    one      ··▶ journal   begin\n+    one      ··▶ journal   begun" in told


@pytest.mark.parametrize("left_out", [8, 9, 10])
def test_a_missing_line_is_told(tmp_path: Path, left_out: int) -> None:
    lines = SMALL.splitlines()
    del lines[left_out - 1]
    with pytest.raises(Wrong, match=rf"^small\.txt:{left_out}: "):
        checked(tmp_path, "\n".join(lines))


def test_output_that_is_missing_altogether_is_told(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=r"^small\.txt:5: (.|\n)*expected: \(nothing\)\ngot: .*epoch 1"):
        checked(tmp_path, SMALL.replace("    one      ══▶ journal   epoch 1\n", ""))


def test_a_line_too_many_is_told(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=r"^small\.txt:11: (.|\n)*got: +\(nothing\)"):
        checked(tmp_path, SMALL + "    one      ──▶ stock     apply\n")


def test_only_the_space_at_the_end_of_a_line_does_not_count(tmp_path: Path) -> None:
    checked(tmp_path, SMALL.replace("begun\n", "begun  \n"))
    with pytest.raises(Wrong):
        checked(tmp_path, SMALL.replace("──▶ journal", "──▶  journal"))


def test_an_unknown_command_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match=r"^small\.txt:12: no phrase says 'stock explodes'$"):
        checked(tmp_path, SMALL + "\nstock explodes\n")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("money crashes", "there is no participant 'money'; there are stock"),
        ("two dies", "there is no coordinator 'two'; there are one"),
        ("one starts", "one is up already"),
        ("one wakes up", "one is up, not frozen"),
        ("stock votes yes", "no prepare is on its way to stock"),
        ("stock votes perhaps", "nobody votes 'perhaps': say yes, no or read-only"),
        ("stock ends its work", "stock is not at work: its branch is nothing"),
        ("the answer of stock is lost", "no answer of stock is on its way"),
        ("somebody commits at stock by hand", "nothing is prepared at stock: it is nothing"),
        ("stock fails over and loses its last 1", "stock has made 0 changes, it cannot lose 1"),
        ("the journal rules for two", "0 proposals are on their way to the journal: say for whom, and on what"),
        ("the copy is put back", "no such journal was kept"),
        ("one reads what is live", "one has not begun to read"),
        ("one reads stock again", "one reads stock again before it has read all the rest"),
        ("bob executes: stock", "there is a transaction of that name: give each of them one"),
        ("how it stands with T7", "there is no transaction 'T7'; there are "),
        ("one proposes to hope", "nobody proposes to 'hope': say commit or abort"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_why(tmp_path: Path, command: str, why: str) -> None:
    with pytest.raises(Wrong) as caught:
        checked(tmp_path, f"{SMALL}\n{command}\n")
    assert str(caught.value).startswith(f"small.txt:12: {why}")


@pytest.mark.parametrize(("plan", "vote"), [("stock reads", "yes"), ("stock, money", "read-only")])
def test_a_vote_that_the_branch_cannot_give_must_be_said_to_be_wrong(tmp_path: Path, plan: str, vote: str) -> None:
    text = f"participants: stock, money\none starts\nalice executes: {plan}\n"
    path = tmp_path / "small.txt"
    path.write_text(text, encoding="utf-8")
    write_anew(path)
    with pytest.raises(Wrong, match=f"stock cannot vote {vote} here"):
        checked(tmp_path, f"{path.read_text(encoding='utf-8')}stock votes {vote}\n")


def test_who_is_frozen_or_dead_does_nothing(tmp_path: Path) -> None:
    for how in ("freezes", "dies"):
        text = SMALL[: SMALL.index("alice")] + f"one {how}\n" + ("    one      [dead]\n" if how == "dies" else "")
        with pytest.raises(Wrong, match=r"one is (frozen|dead): it can do nothing|those that can act are none"):
            checked(tmp_path, f"{text}\nalice executes: stock\n")


def test_a_line_that_is_the_output_of_nothing_is_refused() -> None:
    with pytest.raises(Wrong, match=r"^x\.txt:3: this line is the output of no command"):
        read("x.txt", "participants: stock\n\n    stock    [prepared]\n")
    with pytest.raises(Wrong, match=r"^x\.txt:1: "):
        read("x.txt", "    stock    [prepared]\n")


def test_a_command_that_can_be_read_in_two_ways_is_refused() -> None:
    book: Book[list[str]] = Book()

    @book.phrase("{who} sleeps")
    def sleeps(on: list[str], who: str) -> None:
        on.append(who)

    @book.phrase("everybody {does}")
    def everybody(on: list[str], does: str) -> None:
        on.append(does)

    said: list[str] = []
    act([book], said, "stock sleeps")
    assert said == ["stock"]
    with pytest.raises(Unknown, match=r"can be read as each of: \{who\} sleeps; everybody \{does\}"):
        act([book], said, "everybody sleeps")


def test_words_may_be_left_out_and_the_last_ones_taken_together() -> None:
    book: Book[list[object]] = Book()

    @book.phrase("the {what}[ of {tx}] is lost: {why...}")
    def is_lost(on: list[object], what: str, tx: str | None, why: str) -> None:
        on.append((what, tx, why))

    said: list[object] = []
    act([book], said, "the commit of T1 is lost: who knows")
    act([book], said, "the commit is lost: nobody")
    assert said == [("commit", "T1", "who knows"), ("commit", None, "nobody")]
    with pytest.raises(Unknown):
        act([book], said, "the commit of T1 is lost:")


@pytest.mark.parametrize("path", transcripts(Path(__file__).parent), ids=lambda path: path.stem)
def test_every_transcript_is_as_it_would_be_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    produced = {command.line: lines for command, lines in play(read(path.name, text), Stage())}
    assert rewrite(text, produced) == text


def test_writing_anew_puts_what_happens_below_the_commands_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text(SMALL.replace("epoch 1", "epoch 7").replace("begun", "gone") + "    more\n", encoding="utf-8")
    write_anew(path)
    assert path.read_text(encoding="utf-8") == SMALL


def test_what_cannot_be_is_not_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text(f"{SMALL}\nstock explodes\n", encoding="utf-8")
    with pytest.raises(Wrong):
        write_anew(path)
    assert path.read_text(encoding="utf-8").endswith("stock explodes\n")


def test_nothing_here_waits_for_what_never_comes() -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    async def returns() -> int:
        return 7

    assert at_once(returns()) == 7
    with pytest.raises(RuntimeError, match="waits for something"):
        at_once(waits())
