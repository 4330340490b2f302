"""The table of scores that ``trainer.predict`` leaves for ``lightning-fed evaluate``."""

import csv

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_fed.callbacks import ScoreTable
from lightning_fed.errors import ConfigError, DataError
from lightning_fed.evaluation.cases import read_cases
from lightning_fed.plan import CountedColumn, Evaluation
from lightning_fed.radiology.records import table_records

COUNT = 11


class Cases(Dataset):
    def __init__(self, shift=0):
        self.shift = shift

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)]), "label": torch.tensor(float((index + self.shift) % 3 == 0))}


class Data(L.LightningDataModule):
    def __init__(self, shuffle=False, shift=0):
        super().__init__()
        self.shuffle, self.shift = shuffle, shift

    def predict_dataloader(self):
        return DataLoader(Cases(self.shift), batch_size=4, shuffle=self.shuffle)

    def case_rows(self):
        return [
            {"Patient": f"p{index // 2}", "Age": str(index / 2), "label": "not looked at"} for index in range(COUNT)
        ]


class Scores(L.LightningModule):
    def __init__(self, slope=0.2, made=torch.sigmoid):
        super().__init__()
        self.slope, self.made = slope, made

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        return self.made(self.slope * (batch["x"] - 5))


def predict(table, module=None, data=None, **loaders):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[table]
    )
    given = loaders or {"datamodule": data or Data()}
    trainer.predict(module or Scores(), return_predictions=False, **given)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


COLUMNS = ("patient", "label", "age")


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_has_the_score_the_batchs_label_and_what_the_data_module_says_of_the_case(tmp_path, shuffle):
    path = tmp_path / "made" / "north.csv"
    torch.manual_seed(0)
    predict(ScoreTable(path, "global", COLUMNS), data=Data(shuffle))
    rows = rows_of(path)
    assert [row["patient"] for row in rows] == [f"p{index // 2}" for index in range(COUNT)]
    assert [row["label"] for row in rows] == [str(int(index % 3 == 0)) for index in range(COUNT)]
    assert [float(row["age"]) for row in rows] == [index / 2 for index in range(COUNT)]
    expected = torch.sigmoid(0.2 * (torch.arange(float(COUNT)) - 5))
    assert torch.equal(torch.tensor([float(row["global"]) for row in rows]), expected)


def test_several_models_come_to_stand_beside_each_other_and_are_measured(tmp_path):
    path = tmp_path / "north.csv"
    predict(ScoreTable(path, "global", COLUMNS), Scores(9.0))
    predict(ScoreTable(path, "local", COLUMNS, logits=True), Scores(1.0, lambda logits: {"score": logits}))
    predict(ScoreTable(path, "global", COLUMNS), Scores(0.2))
    assert list(rows_of(path)[0]) == [*COLUMNS, "global", "local"]
    plan = Evaluation(models=["global", "local"], subgroups={"age": CountedColumn(edges=[0, 3, 6])})
    cases = read_cases(plan, table_records(path, plan.columns))
    assert len(cases.labels) == COUNT
    assert cases.scores[0] == pytest.approx(torch.sigmoid(0.2 * (torch.arange(float(COUNT)) - 5)).tolist())
    assert cases.scores[1] == pytest.approx(torch.sigmoid(torch.arange(float(COUNT)) - 5).tolist())


def test_scores_of_other_cases_are_not_put_beside(tmp_path):
    path = tmp_path / "north.csv"
    predict(ScoreTable(path, "global", COLUMNS))
    before = path.read_text()
    with pytest.raises(ConfigError, match="is a table of other cases"):
        predict(ScoreTable(path, "local", COLUMNS), data=Data(shift=1))
    with pytest.raises(ConfigError, match="is a table of other cases"):
        predict(ScoreTable(path, "local"), dataloaders=DataLoader([{"x": torch.ones(1), "label": 1, "patient": "p"}]))
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("made", "columns", "error", "words"),
    [
        (lambda logits: logits, COLUMNS, DataError, "gave the score -1, and a score must lie between 0 and 1"),
        (lambda logits: logits * torch.nan, COLUMNS, DataError, "gave the score nan"),
        (lambda logits: logits.expand(-1, 3), COLUMNS, ConfigError, r"a tensor of shape \(4, 3\)"),
        (lambda logits: logits.sum(), COLUMNS, ConfigError, r"a tensor of shape \(\)"),
        (lambda logits: None, COLUMNS, ConfigError, "gave NoneType"),
        (torch.sigmoid, ("patient", "view"), ConfigError, "nothing has a column 'view'"),
        (lambda logits: {"score": torch.sigmoid(logits), "age": [1]}, COLUMNS, ConfigError, "'age' has 1 values"),
    ],
)
def test_what_makes_no_table_is_refused_with_the_cure_and_nothing_is_written(tmp_path, made, columns, error, words):
    with pytest.raises(error, match=words):
        predict(ScoreTable(tmp_path / "t.csv", "global", columns), Scores(made=made))
    assert not list(tmp_path.iterdir())


def test_several_loaders_and_several_devices_are_refused(tmp_path):
    table = ScoreTable(tmp_path / "t.csv", "global", ["label"])
    with pytest.raises(ConfigError, match="several predict loaders"):
        predict(table, dataloaders=[DataLoader(Cases()), DataLoader(Cases())])
    with pytest.raises(ConfigError, match="2 devices predict"):
        table.on_predict_start(L.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False), Scores())
    with pytest.raises(ConfigError, match="'label' is the model and one of"):
        ScoreTable(tmp_path / "t.csv", "label")
    assert not list(tmp_path.iterdir())
