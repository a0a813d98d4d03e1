"""Go's templates, as far as people use them with --format: what they print, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from fastlayer.cli.plain import Labels
from fastlayer.cli.template import FUNCTIONS, HEADINGS, TemplateSyntaxError, TemplateValueError, compile_template

THING: dict[str, Any] = {
    "Id": "sha256:ab",
    "RepoTags": ["a:1", "b:2"],
    "Config": {"Cmd": None, "Labels": {"z": "1", "a": "2"}, "Env": []},
    "N": 3,
    "T": True,
    "Odd": "a\x1b[1m\nb",
}


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("{{.Id}}", "sha256:ab"),
        ("{{ .Id }} x", "sha256:ab x"),
        ("{{.RepoTags}}", "[a:1 b:2]"),
        ("{{.Config.Labels}}", "map[a:2 z:1]"),
        ("{{.Config}}", "map[Cmd:<nil> Env:[] Labels:map[a:2 z:1]]"),
        ("{{.Config.Cmd}}", "<no value>"),
        ("{{.N}} {{.T}} {{true}} {{-1}}", "3 true true -1"),
        ("{{json .Config}}", '{"Cmd":null,"Labels":{"z":"1","a":"2"},"Env":[]}'),
        ("{{.Id | upper}} {{.Id|json}}", 'SHA256:AB "sha256:ab"'),
        ("{{index .RepoTags 1}}", "b:2"),
        ('{{index .Config "Labels" "z"}}{{index .Config.Labels "none"}}', "1"),
        ("{{(index .RepoTags 0)}} {{($).N}}", "a:1 3"),
        ("{{range .RepoTags}}{{.}};{{end}}", "a:1;b:2;"),
        ("{{range .Config.Labels}}{{.}},{{end}}", "2,1,"),
        ("{{range .Config.Env}}x{{else}}none {{.N}}{{end}}", "none 3"),
        ("{{range .Config.Cmd}}x{{end}}", ""),
        ("{{range .RepoTags}}{{$.N}}{{end}}", "33"),
        ("{{if .Config.Env}}yes{{else}}no{{end}}", "no"),
        ("{{if eq .N 3}}{{if not .T}}{{else}}three{{end}}{{end}}", "three"),
        ("{{ne .N 3}} {{eq .Id `x` `sha256:ab`}}", "false true"),
        ('{{join .RepoTags ", "}} {{len .RepoTags}} {{len .Id}}', "a:1, b:2 2 9"),
        ('{{index (split .Id ":") 1}}', "ab"),
        ('{{split .Id ""}}', "[s h a 2 5 6 : a b]"),
        ("{{range .RepoTags}}{{println .}}{{end}}", "a:1\nb:2\n"),
        ("{{println .N .Config.Cmd}}", "3 <nil>\n"),
        ("a\\tb\\n", "a\tb\n"),
        ('{{join .RepoTags "\\n"}}', "a:1\nb:2"),
        ("x {{- .N -}} y {{.N}}", "x3y 3"),
        ("no action }}", "no action }}"),
        ("{{.Odd}}", "a\\x1b[1m\\nb"),
        ("{{json .Odd}}", '"a\\u001b[1m\\nb"'),
    ],
)
def test_what_is_printed(text: str, wanted: str) -> None:
    assert compile_template(text).render(THING) == wanted


@pytest.mark.parametrize(
    "text, why",
    [
        ("{{.Id", "}} is missing"),
        ("{{", "}} is missing"),
        ("{{.Id}", "'}' is not expected"),
        ("{{}}", "}} is not expected"),
        ("{{foo}}", "function 'foo' is not known here: use one of json, .*, or a field .foo"),
        ("{{.Id .N}}", ".N is not expected"),
        ("{{end}}", "without a beginning"),
        ("{{else}}", "without a beginning"),
        ("{{range .RepoTags}}", "{{range}} without {{end}}"),
        ("{{if .T}}{{else}}{{else}}{{end}}", "without {{end}}"),
        ("{{(.Id}}", "a parenthesis is not closed"),
        ("{{.Id)}}", r"\) is not expected"),
        ("{{3 | .Id}}", "no function"),
        ('{{"\\x"}}', "is no text in quotes"),
        ("{{$x := .Id}}", "is not expected"),
        ("{{if .T}}" * 100 + "{{end}}" * 100, "too many blocks"),
        ("{{" + "(" * 100 + ".Id" + ")" * 100 + "}}", "too many parentheses"),
    ],
)
def test_what_is_no_template(text: str, why: str) -> None:
    with pytest.raises(TemplateSyntaxError, match=why):
        compile_template(text)


@pytest.mark.parametrize(
    "text, why",
    [
        ("{{.Nothing}}", "there is no field Nothing: use Id, RepoTags"),
        ("{{.Config.Labels.x}}", "there is no field x: use z, a"),
        ("{{.Id.x}}", "there is no field x in a text"),
        ("{{index .RepoTags 2}}", "index out of range: 2 of 2"),
        ("{{index .Id 0}}", "cannot index a text with a number"),
        ("{{index .RepoTags `a`}}", "cannot index a list with a text"),
        ("{{len .N}}", "a number has no length"),
        ("{{join .Id `,`}}", "cannot join a text"),
        ("{{join .RepoTags 1}}", "a number cannot stand between texts"),
        ("{{split .Id .N}}", "a number cannot stand between texts"),
        ("{{range .N}}{{end}}", "cannot range over a number"),
        ("{{upper .Id .Id}}", "upper does not take a text, a text"),
        ("{{json}}", "json does not take nothing"),
    ],
)
def test_what_the_thing_has_not_got(text: str, why: str) -> None:
    with pytest.raises(TemplateValueError, match=why):
        compile_template(text).render(THING)


def test_the_headings_of_a_table() -> None:
    titles = compile_template("{{json .ID}}\\t{{upper .Tag}}\\t{{index .A 0}}", HEADINGS)
    assert titles.fields == ("ID", "Tag", "A")
    assert titles.render({"ID": "IMAGE ID", "Tag": "tag", "A": "a"}) == "IMAGE ID\ttag\ta"


def test_a_label_of_a_row() -> None:
    """``.Label "KEY"`` of Docker's lists; values may have commas."""
    row = {"Labels": Labels({"b": "x,y=z", "a": ""}), "Map": {}}
    text = (
        '{{.Label "b"}}|{{.Label `a`}}|{{.Label "none"}}|{{.Labels}}|{{if .Label "b"}}yes{{end}}|{{upper (.Label "b")}}'
    )
    assert compile_template(text).render(row) == "x,y=z|||a=,b=x,y=z|yes|X,Y=Z"
    titles = compile_template('{{.Label "b"}}', HEADINGS)
    assert titles.fields == ("Labels",) and titles.render({"Labels": "LABELS"}) == "b"
    for text, why in (("{{.Label}}", "no field Label"), ('{{.Label "a" "b"}}', "not expected")):
        with pytest.raises((TemplateValueError, TemplateSyntaxError), match=why):
            compile_template(text).render(row)


def test_the_docs_name_all_functions() -> None:
    docs = " ".join((Path(__file__).parents[2] / "docs/cli.md").read_text().split())
    assert f"the functions {', '.join(f'`{name}`' for name in FUNCTIONS)}. There are no variables" in docs


def test_any_text_is_a_template_or_is_refused() -> None:
    seed = 20261126
    chance = random.Random(seed)
    pieces = ["{{", "}}", ".", ".Id", " ", "(", ")", "|", "json", "range", "end", "else", "if", '"', "`", "-", "$", "0"]
    for _ in range(20_000):
        text = "".join(chance.choices([*pieces, "\\", "\n", "index", ".RepoTags"], k=chance.randint(1, 12)))
        try:
            assert isinstance(compile_template(text).render(THING), str), (seed, text)
        except (TemplateSyntaxError, TemplateValueError) as exc:
            assert str(exc)
