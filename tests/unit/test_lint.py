"""The build checks: each rule where it speaks and where it is silent, by the names and messages of Docker's."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from fastlayer.builder.dockerfile.stages import read
from fastlayer.builder.lint import report as reports
from fastlayer.builder.lint.bases import bases_of
from fastlayer.builder.lint.check import Report, check, violation, warnings_of
from fastlayer.builder.lint.options import parse_options
from fastlayer.builder.lint.rules import RULES
from fastlayer.builder.lint.stages import Base
from fastlayer.errors import DockerfileError
from fastlayer.image.importing import import_image
from fastlayer.oci.config import RunConfig
from fastlayer.oci.platform import Platform
from tests.stores import tree, vfs_store

PLATFORMS = {
    "BUILDPLATFORM": "linux/amd64",
    "TARGETPLATFORM": "linux/amd64",
    "TARGETOS": "linux",
    "TARGETARCH": "amd64",
}
ALPINE = Base({"PATH": "/bin"}, platform="linux/amd64")


def known(image: str, platform: str) -> Base | None:
    if image.startswith("alpine"):
        return ALPINE
    if image == "python":
        return Base({"PATH": "/bin", "PYTHON_VERSION": "3.13"}, ("/bin/bash", "-c"), ("ENV PORT=80",), "linux/arm64")
    return None


def report(text: str, *, arguments: Mapping[str, str] = {}, ignored: list[str] | None = None) -> Report:
    return check(text.encode(), arguments=arguments, platforms=PLATFORMS, ignored=ignored, bases=known)


def found(text: str, **given: object) -> list[str]:
    result = report(text, **given)  # type: ignore[arg-type]
    return [f"{warning.start} {warning.rule.name}: {warning.message}" for warning in result.warnings]


# ---- rule by rule: text -> what is found --------------------------------------------------------------

FROM_CASING = "FromAsCasing: 'as' and 'FROM' keywords' casing do not match"
LOUD = "ConsistentInstructionCasing: Command '{}' should match the case of the command majority ({})"
CASES: list[tuple[str, list[str]]] = [
    # StageNameCasing, FromAsCasing
    ("FROM scratch AS Stage\n", ["1 StageNameCasing: Stage name 'Stage' should be lowercase"]),
    ("FROM scratch as one\nFROM scratch AS two\n", [f"1 {FROM_CASING}"]),
    ("from scratch AS one\n", ["1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"]),
    ("from scratch as one\n", []),
    ("From scratch As x\nFROM x\n", ["1 " + LOUD.format("From", "uppercase")]),
    # NoEmptyContinuation: the last line, before the here-documents
    ("FROM scratch\nCOPY a \\\n\n /\n", ["4 NoEmptyContinuation: Empty continuation line"]),
    ("FROM scratch\nCOPY a \\\n# no\n /\n", []),
    ("FROM alpine\nRUN a && \\\n\n cat <<X\n\nhello\nX\n", ["4 NoEmptyContinuation: Empty continuation line"]),
    ("FROM alpine\nRUN cat <<X\n\nhello\nX\n", []),
    ("FROM alpine\nONBUILD RUN a \\\n\n b\n", ["4 NoEmptyContinuation: Empty continuation line"]),
    # ConsistentInstructionCasing
    ("FROM scratch\ncopy a /a\nCOPY b /b\n", ["2 " + LOUD.format("copy", "uppercase")]),
    ("from scratch\nCOPY a /a\ncopy b /b\n", ["2 " + LOUD.format("COPY", "lowercase")]),
    ("FROM scratch\ncopy a /a\n", ["2 " + LOUD.format("copy", "uppercase")]),
    ("from scratch\nCopy a /a\n", ["2 " + LOUD.format("Copy", "lowercase")]),
    ("arg A=1\nFROM scratch\n", []),
    ("FROM alpine\nRUN <<x\nfrom\nx\n", []),
    # DuplicateStageName, ReservedStageName
    (
        "FROM scratch AS a\nFROM scratch AS a\n",
        ['2 DuplicateStageName: Duplicate stage name "a", stage names should be unique'],
    ),
    (
        "FROM scratch AS scratch\nFROM scratch AS context\nFROM scratch\n",
        [
            '1 ReservedStageName: Stage name should not use the same name as reserved stage "scratch"',
            '2 ReservedStageName: Stage name should not use the same name as reserved stage "context"',
        ],
    ),
    # JSONArgsRecommended
    *(
        (
            f"FROM scratch\n{word} run it\n",
            [
                (
                    f"2 JSONArgsRecommended: JSON arguments recommended for {word} to prevent unintended behavior "
                    "related to OS signals"
                )
            ],
        )
        for word in ("CMD", "ENTRYPOINT")
    ),
    ('FROM scratch\nSHELL ["/sh"]\nCMD run\nENTRYPOINT run\n', []),
    ('FROM scratch AS a\nSHELL ["/sh"]\nFROM a\nCMD run\n', []),
    ('FROM scratch\nCMD ["run"]\nHEALTHCHECK CMD run\nRUN run\n', []),
    # MaintainerDeprecated
    (
        "FROM scratch\nMAINTAINER me\n",
        ["2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
    ),
    # UndefinedArgInFrom
    ("ARG B=scratch\nFROM $B\n", []),
    ("FROM --platform=$BUILDPLATFORM scratch\n", []),
    ("ARG DEBUG\nFROM scratch${DEBUG}\n", []),
    ("ARG DEBUG\nFROM scra${DEBUG:-tch}\n", []),
    ('ARG DEBUG=""\nFROM scratch${DEBUG-@no}\n', []),
    (
        "ARG tag=latest\nFROM alpine:${tag}${version} AS b\n",
        ["2 UndefinedArgInFrom: FROM argument 'version' is not declared"],
    ),
    (
        "FROM --platform=linux/amd64$TARGETARHC scratch AS amd64\n",
        ["1 UndefinedArgInFrom: FROM argument 'TARGETARHC' is not declared (did you mean TARGETARCH?)"],
    ),
    # WorkdirRelativePath
    (
        "FROM scratch\nWORKDIR app/\nWORKDIR more\n",
        ['2 WorkdirRelativePath: Relative workdir "app/" can have unexpected results if the base image changes'],
    ),
    ("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n", []),
    ("FROM scratch\nARG D=/app\nWORKDIR $D\n", []),
    # UndefinedVar
    ("FROM alpine\nARG foo\nCOPY a${foo} .\n", []),
    ("FROM alpine AS base\nARG foo=a\nFROM base\nCOPY $foo .\n", []),
    ("FROM alpine\nRUN echo $PATH $FOO\n", []),
    ("FROM alpine\nCOPY $foo .\nARG foo=bar\n", ["2 UndefinedVar: Usage of undefined variable '$foo'"]),
    ("FROM alpine\nENV A=$foo\n", ["2 UndefinedVar: Usage of undefined variable '$foo'"]),
    ("FROM alpine\nARG A=$foo\n", ["2 UndefinedVar: Usage of undefined variable '$foo'"]),
    ("FROM alpine\nENV A=1 B=$A\n", ["2 UndefinedVar: Usage of undefined variable '$A'"]),
    ("FROM alpine\nRUN --mount=target=/$x true\n", ["2 UndefinedVar: Usage of undefined variable '$x'"]),
    ("FROM alpine\nCOPY <<X /x\n$one\nX\n", ["2 UndefinedVar: Usage of undefined variable '$one'"]),
    ("FROM alpine\nCOPY <<'X' /x\n$one\nX\n", []),
    ("FROM alpine\nEXPOSE $one\n", []),
    (
        "FROM alpine\nARG DIR_ASSETS=a\nCOPY $DIR_ASSET .\n",
        ["3 UndefinedVar: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)"],
    ),
    (
        "FROM alpine\nENV PATH=$PAHT:/x\n",
        ["2 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)"],
    ),
    ("FROM scratch AS one\nCOPY $a /\nFROM scratch\n", ["2 UndefinedVar: Usage of undefined variable '$a'"]),
    # a base that nobody knows may set anything
    ("FROM somewhere\nCOPY $foo .\n", []),
    ("FROM somewhere\nCOPY $foo .\nENV foo=1\n", ["2 UndefinedVar: Usage of undefined variable '$foo'"]),
    (
        "FROM somewhere\nENV PATH=$PAHT\n",
        ["2 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)"],
    ),
    ("FROM somewhere\nENV a=1\nCOPY $b .\n", []),
    # MultipleInstructionsDisallowed: the one that is not used
    (
        'FROM scratch\nENTRYPOINT ["a"]\nCMD ["a"]\nHEALTHCHECK CMD a\nENTRYPOINT ["b"]\nCMD ["b"]\nHEALTHCHECK NONE\n',
        [
            f"{line} MultipleInstructionsDisallowed: Multiple {word} instructions should not be used in the same stage "
            "because only the last one will be used"
            for line, word in ((2, "ENTRYPOINT"), (3, "CMD"), (4, "HEALTHCHECK"))
        ],
    ),
    ('FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n', []),
    # LegacyKeyValueFormat
    (
        "FROM scratch\nENV one 1\nLABEL two 2\n",
        [
            f'{line} LegacyKeyValueFormat: "{word} key=value" should be used instead of legacy "{word} key value" '
            "format"
            for line, word in ((2, "ENV"), (3, "LABEL"))
        ],
    ),
    ('FROM scratch\nENV one="a b" two=c\nLABEL "two words"=2\n', []),
    # RedundantTargetPlatform, FromPlatformFlagConstDisallowed
    *(
        (
            f"FROM --platform={word} scratch\n",
            [
                (
                    f"1 RedundantTargetPlatform: Setting platform to predefined {word} in FROM is redundant as this is "
                    "the default behavior"
                )
            ],
        )
        for word in ("$TARGETPLATFORM", "${TARGETPLATFORM}")
    ),
    (
        "FROM --platform=linux/arm64 scratch\n",
        ['1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "linux/arm64"'],
    ),
    ("FROM --platform=linux/arm64 scratch AS my_arm64_stage\nFROM --platform=linux/arm64 scratch AS linux\n", []),
    # SecretsUsedInArgOrEnv
    *(
        (
            f"FROM scratch\n{line}\n",
            [
                "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data "
                f'({line.split()[0]} "{name}")'
                for name in names
            ],
        )
        for line, names in (
            ("ARG SECRET_PASSPHRASE", ["SECRET_PASSPHRASE"]),
            ("ENV SUPER_Secret=foo", ["SUPER_Secret"]),
            ("ENV password=bar secret=baz", ["password", "secret"]),
            ("ARG my_secret_token=a auth=b", ["auth", "my_secret_token"]),
            ("ENV apikey=bar sunflower=foo", ["apikey"]),
            ("ENV git_key=", ["git_key"]),
            ("ENV PUBLIC_KEY= password_file=/x AUTH_VERSION=1 monkey=2", []),
        )
    ),
    # InvalidDefaultArgInFrom
    (
        "ARG TAG\nFROM alpine:$TAG\n",
        ["2 InvalidDefaultArgInFrom: Default value for ARG alpine:$TAG results in empty or invalid base image name"],
    ),
    ("ARG TAG=latest\nFROM alpine:$TAG\n", []),
    ("ARG VARIANT\nFROM alpine:3${VARIANT}\n", []),
    ("FROM scratch AS base\nFROM BASE\n", []),
    # ExposeProtoCasing, ExposeInvalidFormat
    (
        "FROM scratch\nARG P=TCP\nEXPOSE 80/TcP 8080/$P 9/udp\n",
        [
            f"3 ExposeProtoCasing: Defined protocol '{port}' in EXPOSE instruction should be lowercase"
            for port in ("80/TcP", "8080/TCP")
        ],
    ),
    (
        "FROM scratch\nEXPOSE 127.0.0.1:80:80 [::1]:8080:8080 5000:5000 8000 90-92\n",
        [
            "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found "
            f"'{port}'"
            for port in ("127.0.0.1:80:80", "5000:5000", "[::1]:8080:8080")
        ],
    ),
    # what a base image brings: variables, a shell, triggers, a platform
    ("FROM --platform=linux/arm64 python AS arm64\nCOPY $PYTHON_VERSION $PORT /\nCMD run\n", []),
    (
        "FROM python\n",
        [
            (
                '1 InvalidBaseImagePlatform: Base image python was pulled with platform "linux/arm64", expected '
                '"linux/amd64" for current build'
            )
        ],
    ),
    ("FROM alpine AS a\nONBUILD ENV PORT=80\nFROM a\nCOPY $PORT /\n", []),
]


@pytest.mark.parametrize("text,expected", CASES)
def test_rules(text: str, expected: list[str]) -> None:
    assert found(text) == expected
    result = report(text, arguments={"TAG": "1"})
    assert not result.error


def test_every_rule_has_a_case() -> None:
    seen = {line.split()[1].rstrip(":") for _, expected in CASES for line in expected}
    assert seen | {"CopyIgnoredFile", "InvalidDefinitionDescription"} == {rule.name for rule in RULES}


def test_addresses() -> None:
    urls = {rule.name: rule.url.removeprefix("https://docs.docker.com/go/dockerfile/rule/") for rule in RULES}
    assert urls["JSONArgsRecommended"] == "json-args-recommended/"
    assert urls["SecretsUsedInArgOrEnv"] == "secrets-used-in-arg-or-env/"
    assert urls["InvalidBaseImagePlatform"] == ""


# ---- experimental ------------------------------------------------------------------------------------

DESCRIBED = """# check=experimental=InvalidDefinitionDescription
# other is not the name
ARG foo=bar
# BasE is said otherwise
FROM scratch AS base
# nothing of the kind
ARG one=1 two=2
# two is one of them
ARG one=1 two=2
# apart
#
ARG three=3
# a stage without a name
FROM scratch
# not a definition
COPY a /
"""


def test_descriptions_of_arguments_and_stages() -> None:
    rule = "InvalidDefinitionDescription: Comment for"
    assert found(DESCRIBED) == [
        f"3 {rule} ARG should follow the format: `# foo <description>`",
        f"5 {rule} FROM should follow the format: `# base <description>`",
        f"7 {rule} ARG should follow the format: `# <arg_key> <description>`",
    ]
    assert found(DESCRIBED.partition("\n")[2]) == []
    assert found("# check=experimental=all\n# syntax=a\nFROM scratch AS b\n") == []


def test_files_that_are_ignored() -> None:
    text = "# check=experimental=CopyIgnoredFile\nFROM scratch AS a\nCOPY ./x/../one .\nADD two/three /\n"
    text += "COPY --from=alpine one /\nADD https://x/one /\nCOPY . .\nARG n=one\nCOPY $n /\n"
    copied = 'CopyIgnoredFile: Attempting to {} file "{}" that is excluded by .dockerignore'
    assert found(text, ignored=["one", "two"]) == [
        "3 " + copied.format("Copy", "one"),
        "4 " + copied.format("Add", "two/three"),
        "9 " + copied.format("Copy", "one"),
    ]
    assert found(text, ignored=["**", "!one"]) == []
    assert found(text) == []
    assert found(text.partition("\n")[2], ignored=["one"]) == []


# ---- what is wanted ----------------------------------------------------------------------------------

TWO = "FROM scratch as base\ncopy a /\n"


def test_what_a_directive_skips() -> None:
    assert len(found(TWO)) == 2
    assert found("#check=skip=all\n" + TWO) == []
    assert found("# check = skip=ConsistentInstructionCasing , FromAsCasing;error=true\n" + TWO) == []
    assert found("#check=skip=ConsistentInstructionCasing\n" + TWO) == [f"2 {FROM_CASING}"]


def test_the_build_argument_replaces_the_directive() -> None:
    argument = {"BUILDKIT_DOCKERFILE_CHECK": "skip=ConsistentInstructionCasing;error=true"}
    result = report("#check=skip=all\n" + TWO, arguments=argument)
    assert [warning.rule.name for warning in result.warnings] == ["FromAsCasing"]
    assert result.error == "lint violation found for rules: FromAsCasing"
    skipped = report("#check=error=true\n" + TWO, arguments={"BUILDKIT_DOCKERFILE_CHECK": "skip=all"})
    assert skipped.clean


def test_a_comment_skips_for_one_instruction() -> None:
    text = "FROM scratch\n# check=skip=SecretsUsedInArgOrEnv // it is none\nENV password=1\nENV password=2\n"
    assert [line.split()[0] for line in found(text)] == ["4"]
    assert found("FROM scratch\n# check=skip=all\nENV password 1\n") == []
    assert len(found("FROM scratch\n# check=out\nENV password=1\n")) == 1
    assert found("\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch\n") == []
    several = "FROM scratch\n# check=skip=UndefinedVar\nCOPY $a \\\n  $b /\n"
    assert found(several) == []


@pytest.mark.parametrize("text", ["no", "skip", "error=maybe", "skip=a;b", "other=1", "error=true;skip=a;x=1;y=2"])
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(DockerfileError, match="is no option"):
        parse_options(text)
    result = report(f"# check={text}\nFROM scratch\n")
    assert result.error.startswith("Dockerfile:1: check=") and result.error_line == 1


# ---- errors ------------------------------------------------------------------------------------------


def test_warnings_come_before_the_error() -> None:
    result = report("FROM scratch AS Bad\nMAINTAINER me\nBADCMD\nFROM scratch AS Worse\n")
    assert [(warning.rule.name, warning.start) for warning in result.warnings] == [
        ("StageNameCasing", 1),
        ("MaintainerDeprecated", 2),
    ]
    assert result.error.startswith("Dockerfile:3: unknown instruction") and result.error_line == 3


@pytest.mark.parametrize(
    "text,line",
    [("", 0), ("RUN x\n", 1), ("FROM scratch\nCOPY <<X /\n", 2), ("FROM $NO\n", 1), ("FROM a\nCOPY --from=9 a /\n", 2)],
)
def test_files_that_cannot_be_built(text: str, line: int) -> None:
    result = report(text)
    assert result.error and result.error_line == line and not result.clean


def test_only_the_stages_of_a_target() -> None:
    text = b"FROM scratch AS a\nENV x 1\nFROM scratch AS b\nENV y 2\nFROM a\n"
    assert [warning.start for warning in check(text).warnings] == [2, 4]
    assert [warning.start for warning in check(text, target="2").warnings] == [2]
    assert "no stage" in check(text, target="c").error
    assert [warning.start for warning in warnings_of(read(text), stages=[1])] == [4]


def test_a_build_that_is_to_fail() -> None:
    file = read(b"# check=error=true\nFROM scratch\nENV x 1\n")
    assert violation(file, {}, warnings_of(file)) == "lint violation found for rules: LegacyKeyValueFormat"
    assert violation(file, {}, []) == ""
    assert violation(file, {"BUILDKIT_DOCKERFILE_CHECK": "error=false"}, warnings_of(file)) == ""


# ---- what people and machines see --------------------------------------------------------------------


def test_a_report_to_read() -> None:
    text = "FROM scratch\n\nCOPY a \\\n\x1b[31m /\n\nCMD run\n# end\n"
    printed = list(reports.lines(report(text)))
    assert printed[:4] == [
        "Check complete, 1 warning has been found!",
        "",
        "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
    ]
    assert printed[4:] == [
        "Dockerfile:6",
        "--------------------",
        "   4 |     \\x1b[31m /",
        "   5 |",
        "   6 | >>> CMD run",
        "   7 |     # end",
        "   8 |",
        "--------------------",
    ]
    assert list(reports.lines(report("FROM scratch\n"))) == ["Check complete, no warnings found."]


def test_a_report_of_an_error() -> None:
    printed = list(reports.lines(report("FROM scratch AS Bad\nNO\n")))
    assert printed[0] == "Check complete, 1 warning has been found!"
    assert any(line.startswith("ERROR: Dockerfile:2: unknown instruction 'NO'") for line in printed)
    assert printed[-3:] == ["   2 | >>> NO", "   3 |", "--------------------"]
    assert next(reports.lines(report("NO\n"))).startswith("ERROR: ")


def test_a_summary_after_a_build() -> None:
    warnings = report("FROM scratch\nENV a 1\nENV b 2\n").warnings
    assert list(reports.summary(warnings)) == [
        " 2 warnings found (use --check to see more):",
        ' - LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)',
        ' - LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 3)',
    ]
    assert list(reports.summary([])) == []


def test_a_report_for_machines() -> None:
    text = "FROM scratch\nENV \\\n a 1\n"
    value = reports.to_dict(report(text))
    assert value["warnings"] == [
        {
            "ruleName": "LegacyKeyValueFormat",
            "description": "Legacy key/value format with whitespace separator should not be used",
            "url": "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
            "detail": '"ENV key=value" should be used instead of legacy "ENV key value" format',
            "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 3}}]},
        }
    ]
    (source,) = value["sources"]
    assert base64.b64decode(source["data"]) == text.encode() and source["filename"] == "Dockerfile"
    assert "buildError" not in value
    assert reports.to_dict(report("NO\n"))["buildError"]["location"]["ranges"][0]["start"] == {"line": 1}


# ---- hostile -----------------------------------------------------------------------------------------


def test_odd_files_only_have_errors() -> None:
    for data in (
        b"\xff\xfe",
        b"FROM scratch\nENV \xff\xfe 1\nLABEL \xff=1\n",
        b"FROM scratch\nONBUILD ONBUILD x",
        b"FROM $" + b"{a:-" * 200 + b"}" * 200,
        b"FROM scratch\nCOPY $" + b"{a:-" * 200 + b"}" * 200 + b" /",
        b"ARG a=$b\nARG b=$a\nFROM x$a$b",
    ):
        result = check(data, platforms=PLATFORMS)
        assert list(reports.lines(result)) and reports.to_dict(result)


def test_long_names_are_compared_in_little_time() -> None:
    names = " ".join(f"{'v' * 200}{number:04}=1" for number in range(300))
    result = check(f"FROM scratch\nENV {names}\nCOPY ${'v' * 203}x /\n".encode())
    assert len(result.warnings) == 1


def test_base_images_of_the_store(tmp_path: Path) -> None:
    config = RunConfig(env=("PORT=80", "BARE"), shell=("/bin/zsh",), on_build=("ENV late=1",))
    with vfs_store(tmp_path / "store") as store:
        import_image(store, tree(tmp_path / "t", {"f": "x"}), "app:1", run=config, platform=Platform("linux", "arm64"))
        bases = bases_of(store)
        assert bases("other", "") is None and bases("Not A Name", "") is None and bases("app:1", "plan9/386") is None
        assert bases("app:1", "") == Base({"PORT": "80", "BARE": ""}, ("/bin/zsh",), ("ENV late=1",), "linux/arm64")
        text = b"FROM --platform=linux/arm64 app:1 AS arm64\nCOPY $PORT$late$LATER /\nCMD run\n"
        (warning,) = check(text, bases=bases).warnings
        assert warning.message == "Usage of undefined variable '$LATER'"
