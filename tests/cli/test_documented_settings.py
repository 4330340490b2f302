"""Every setting of plan and policy, and every YAML that the documents print, goes through the commands' own parsers."""

import dataclasses
import re
import types
import typing
from itertools import chain

import pytest
import yaml
from documents import PAGES, ROOT, blocks_of, runnable

from lightning_fed.cli.coordinate import read_config as read_coordinate
from lightning_fed.cli.region import read_config as read_region
from lightning_fed.errors import ConfigError, PlanError, PlanRefusedError
from lightning_fed.plan import FederationPlan
from lightning_fed.plan.level import Level
from lightning_fed.policy import SitePolicy
from lightning_fed.simulation.config import read_config as read_simulation

TEMPLATES = ROOT / "lightning_fed" / "cli" / "templates"
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted(TEMPLATES.glob("*.yaml"))]

PLANS = """
name: on
rounds: 3
local: {epochs: 2}
local: {steps: 50}
local: {optimizer_state: keep}
local: {optimizer_state: reset, proximal: 1e-2}
algorithm: {name: fedadam, server_lr: 0.01}
personal: [normalisation, head.*, no]
masking: {mode: required, bits: 12, bound: 1e3, threshold: 4, colluding: 1}
masking: {mode: off}
masking: {bound: null, threshold: null}
privacy: {example: {epsilon: 8, delta: 1e-5, clipping_norm: 1, replace_layers: yes}}
privacy: {example: {noise_multiplier: 1.0, epsilon: null, replace_layers: off}}
privacy: {site: {mechanism: distributed, noise_multiplier: 1, clipping_norm: 1, delta: 1.0e-5, quantile: 0.5}}
privacy: {site: {mechanism: central}}
privacy: {example: null, site: null}
compression: {method: none, values: float32}
compression: {method: randomk, share: 1e-2, values: bf16}
compression: {method: vote, share: 0.01, values: int8, block: 16, listed: 0.5}
compression: {method: vote, feedback: ef21}
compression: {method: randomk, feedback: residual}
{compression: {method: topk, values: int4}, masking: {mode: off}}
quorum: 3
cohort_size: 5
cohort_size: null
gather_s: 6e1
round_deadline_s: 3600
max_attempts: 2
max_examples: 1000
max_faults: 2
metrics: [val_loss, on, no]
{metrics: [no], best: {metric: no, mode: max}}
{metrics: [val_loss], best: {metric: val_loss, mode: min, patience: 5}}
{rounds: 1, masking: {bits: 32}, statistics: {minimum_count: 5, columns: {a: {edges: [0, 1e2]}, b: {values: [A, on]}}}}
{rounds: 1, masking: {bits: 32}, evaluation: {models: [on], label: no, patient: yes, subgroups: {a: {edges: [0, 1]}}}}
{rounds: 1, masking: {bits: 32}, evaluation: {models: [m], sites: [no, b, c], threshold: 4e-1, minimum_count: 5}}
{rounds: 1, masking: {bits: 32}, evaluation: {models: [m], replicates: 100, bins: 40}}
"""

POLICIES = """
smallest_quorum: 3
metrics: [val_loss, no]
metrics: null
never_leaves: [head.*, on]
masking: required
masking: any
max_epsilon: 8
min_cohort_change: 2
foreign_classes: [my_package.ClippedMean]
max_delta: 1.0e-5
unit: example
unit: site
unit: null
mechanism: distributed
mechanism: central
min_colluding: 1
min_local_steps: 10
members: {no: FINGERPRINT, coordinator: FINGERPRINT}
gives_initial: no
gives_initial: true
statistics: [age, no]
evaluation: none
evaluation: totals
evaluation: each_site
min_count: 5
""".replace("FINGERPRINT", "0123 " * 16)

LEVELS = """
quorum: 3
cohort_size: 5
cohort_size: null
gather_s: 6e1
round_deadline_s: 1e2
round_deadline_s: null
max_attempts: 2
max_examples: 20
max_faults: 2
"""


def lines(text):
    return [line for line in text.splitlines() if line]


def coordinate(tmp_path, document):
    (tmp_path / "config.yaml").write_text(document)
    return read_coordinate(["--config", str(tmp_path / "config.yaml"), "--store", "store"]).plan


def simulate(tmp_path, document):
    (tmp_path / "config.yaml").write_text(
        f"{document}\nrun: r\nsites: [no, b, c, d, on]\nmodel: {{class_path: a.B}}\ndata: {{class_path: a.B}}\n"
    )
    return read_simulation(["--config", str(tmp_path / "config.yaml")]).plan


def words_of(kind):
    """The words that a setting's type lists, of an optional one too."""
    if typing.get_origin(kind) is typing.Literal:
        return set(typing.get_args(kind))
    return set(chain.from_iterable(map(words_of, typing.get_args(kind))))


def settings_of(kind, start=""):
    """The type of every setting by its key, ``local.epochs`` for one."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        (inner,) = [part for part in parts if dataclasses.is_dataclass(part)] or [None]
        found |= settings_of(inner, f"{start}{name}.") if inner else {start + name: hint}
    return found


def written(document, start=""):
    """What stands for each setting, as text."""
    for name, value in document.items():
        if isinstance(value, dict) and start + name not in (
            "algorithm",
            "members",
            "statistics.columns",
            "evaluation.subgroups",
        ):
            yield from written(value, f"{start}{name}.")
        else:
            yield start + name, value


def as_written(document):
    """The document as its writer means it: nothing but text, whatever YAML 1.1 makes of it."""
    return yaml.load(document, Loader=yaml.BaseLoader)


@pytest.mark.parametrize(("text", "kind"), [(PLANS, FederationPlan), (POLICIES, SitePolicy), (LEVELS, Level)])
def test_each_setting_and_each_word_is_in_the_lists_here(text, kind):
    listed = list(chain.from_iterable(written(as_written(line)) for line in lines(text)))
    settings = settings_of(kind)
    # Both of privacy's parts may be null, which is written for the part.
    assert {key for key, _ in listed} - {"privacy.example", "privacy.site"} == set(settings)
    for key, hint in settings.items():
        assert all((key, word) in listed for word in words_of(hint)), key


def compare(got, text):
    """Whether a setting has the value that its text says."""
    if isinstance(text, list):
        return len(got) == len(text) and all(map(compare, got, text))
    if isinstance(text, dict):
        got = vars(got) if dataclasses.is_dataclass(got) else got
        return all(name in got and compare(got[name], value) for name, value in text.items())
    if isinstance(got, bool):
        return got == (text in ("yes", "true"))
    if got is None or isinstance(got, str):
        return got == (None if text == "null" else text)
    return got == float(text)


def setting(plan, key):
    for name in key.split("."):
        plan = getattr(plan, name)
    return plan


@pytest.mark.parametrize("line", lines(PLANS))
@pytest.mark.parametrize("read", [coordinate, simulate])
def test_a_setting_of_the_plan_has_the_value_that_is_written(tmp_path, read, line):
    block = line if line.startswith("{") else f"{{{line}}}"
    plan = read(tmp_path, f"plan: {block}")
    for key, text in written(as_written(line)):
        assert compare(setting(plan, key), text), key


@pytest.mark.parametrize("line", lines(POLICIES))
def test_a_setting_of_a_policy_has_the_value_that_is_written(tmp_path, line):
    (tmp_path / "policy.yaml").write_text(line)
    policy = SitePolicy.load(tmp_path / "policy.yaml")
    for key, text in written(as_written(line)):
        assert compare(setting(policy, key), text.strip() if isinstance(text, str) else text), key


@pytest.mark.parametrize("line", lines(LEVELS))
def test_a_setting_of_a_regions_level_has_the_value_that_is_written(examples, tmp_path, line):
    rest = "upstream: {address: 'tcp://a:1', identity: k, roster: r}\nmodel: {class_path: model.Classifier}\nstore: s"
    (tmp_path / "region.yaml").write_text(f"level: {{{line}}}\n{rest}\n")
    level = read_region(["--config", str(tmp_path / "region.yaml")]).level
    for key, text in written(as_written(line)):
        assert compare(getattr(level, key), text), key


def test_two_choices_that_exclude_each_other_are_still_refused(tmp_path):
    with pytest.raises(PlanError, match="epochs = 1 and steps = 50"):
        coordinate(tmp_path, "plan: {local: {epochs: 1, steps: 50}}")
    assert coordinate(tmp_path, "plan: {}").local.epochs == 1


@pytest.mark.parametrize("plan", ["{compression: {method: null}}", "{masking: off}", "{metrics: null}"])
def test_what_is_no_value_at_all_is_an_error_that_names_the_setting(tmp_path, plan):
    with pytest.raises(ConfigError, match=re.escape(plan.strip("{}").split(":")[0])):
        coordinate(tmp_path, f"plan: {plan}")


def test_a_policy_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "policy.yaml").write_text("masking: [any")
    with pytest.raises(PlanRefusedError, match=r'cannot be read: .* in "policy\.yaml", line 1, column 14'):
        SitePolicy.load(tmp_path / "policy.yaml")


def test_a_boolean_stays_one_where_nothing_says_that_text_is_wanted(tmp_path):
    plan = "plan: {masking: {mode: off}}"
    (tmp_path / "config.yaml").write_text(
        f"{plan}\nrun: r\nsites: [a, b]\nmodel: {{class_path: a.B, init_args: {{flag: no}}}}\ndata: {{class_path: a.B}}"
    )
    simulation = read_simulation(["--config", str(tmp_path / "config.yaml")])
    assert simulation.model["init_args"] == {"flag": False}
    assert simulation.plan.masking.mode == "off"


def test_a_site_takes_each_word_as_its_settings_type_says(lightning_fed, tmp_path):
    strategy = "{class_path: lightning_fed.FederatedStrategy, init_args: {coordinator: 'tcp://h:1', site: no}}"
    (tmp_path / "site.yaml").write_text(
        "model: {class_path: small_modules.Small}\n"
        f"trainer: {{strategy: {strategy}, enable_progress_bar: off, logger: no, profiler: null}}\n"
    )
    code, out, err = lightning_fed("fit", "--config", "site.yaml", "--print_config")
    assert code == 0, err
    trainer = yaml.safe_load(out)["trainer"]
    assert trainer["strategy"]["init_args"]["site"] == "no"
    assert (trainer["enable_progress_bar"], trainer["logger"], trainer["profiler"]) == (False, False, None)


def blocks():
    for page in PAGES:
        run = [block for block in runnable(page) if block.file]  # whole, with the modules that they name
        for block in blocks_of(page):
            if block.language == "yaml" and block.reason is None and block not in run:
                yield pytest.param(block.text, id=block.place)
    for path in CONFIGS:
        yield pytest.param(path.read_text(), id=f"{path.parent.name}-{path.name}")
        for number, variant in enumerate(variants(path.read_text())):
            yield pytest.param(variant, id=f"{path.parent.name}-{path.name}-{number}")


def variants(text):
    """A config with what its comments suggest: ``# or {...}`` behind a value, and each setting behind a ``#``."""
    for value in re.finditer(r"(\{[^{}]*\}) *# or (\{[^{}]*\})", text):
        yield text.replace(value[0], value[2])
    for setting in re.finditer(r"^( *)# (\w+):.*\n(\1#   .*\n)*", text, flags=re.MULTILINE):
        yield text.replace(setting[0], re.sub(r"^( *)# ", r"\1", setting[0], flags=re.MULTILINE))


@pytest.fixture
def examples(monkeypatch, tmp_path):
    """The modules that the documents name: the repository's, and those that the page about adding your own prints."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(TEMPLATES))
    monkeypatch.syspath_prepend(str(tmp_path))
    page = (ROOT / "docs" / "extending.md").read_text()
    for name, body in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, flags=re.DOTALL):
        (tmp_path / name).write_text(body)


@pytest.mark.parametrize("block", list(blocks()))
def test_a_documented_yaml_is_accepted(lightning_fed, examples, tmp_path, block):
    sections = set(as_written(block))
    if sections <= {field.name for field in dataclasses.fields(SitePolicy)}:
        (tmp_path / "policy.yaml").write_text(block)
        SitePolicy.load(tmp_path / "policy.yaml")
    elif "upstream" in sections:
        (tmp_path / "region.yaml").write_text(block)
        read_region(["--config", str(tmp_path / "region.yaml")])
    elif "sites" in sections:
        (tmp_path / "config.yaml").write_text(block)
        read_simulation(["--config", str(tmp_path / "config.yaml")])
    elif {"statistics", "evaluation"} & {*as_written(block).get("plan", {})}:
        (tmp_path / "config.yaml").write_text(block)
        read_coordinate(["--config", str(tmp_path / "config.yaml"), "--store", "store"], counts=True)
    elif "plan" in sections:
        coordinate(tmp_path, block)
    else:
        (tmp_path / "site.yaml").write_text(block)
        code, _, err = lightning_fed("fit", "--config", "site.yaml", "--print_config")
        assert code == 0, err


PRINTED = re.compile(r"\b(?:masking|compression|privacy|local|algorithm): \{\w+: [^{}<>]*\}")


def test_what_documents_and_messages_print_of_a_plan_is_accepted(tmp_path):
    sources = [*PAGES, *CONFIGS, *(ROOT / "lightning_fed").rglob("*.py")]
    texts = [re.sub(r'"\n *f?"', "", path.read_text()) for path in sources]
    found = sorted(set(chain.from_iterable(map(PRINTED.findall, texts))))
    assert "masking: {mode: off}" in found
    assert len(found) > 15
    for printed in [text for text in found if "class_path" not in text]:
        beside = [] if printed.startswith("masking") else ["masking: {mode: off}"]
        coordinate(tmp_path, f"plan: {{{', '.join([printed, *beside])}}}")
