"""The table of scores that ``trainer.predict`` leaves for ``lightning-fed evaluate``."""

import csv

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

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


class Stream(IterableDataset):
    """The same cases, the last one first, so that none is where the data module's rows have it."""

    def __iter__(self):
        return (Cases()[index] | {"patient": f"q{index}"} for index in reversed(range(COUNT)))


class StreamData(Data):
    def train_dataloader(self):
        return DataLoader(Cases(), batch_size=4)

    def predict_dataloader(self):
        return DataLoader(Stream(), batch_size=4)


class Unbatched(Data):
    def predict_dataloader(self):
        return DataLoader([{"x": torch.ones(1), "label": torch.ones(1)}] * COUNT, batch_size=None)


class Fitted(Scores):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return (self.weight * batch["x"]).sum()

    def predict_dataloader(self):
        return DataLoader(Cases(), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.parametrize("given", [True, False], ids=["a loader", "the module's own"])
def test_the_data_module_of_an_earlier_fit_does_not_name_other_cases(tmp_path, given):
    path = tmp_path / "t.csv"
    settings = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        accelerator="cpu", logger=False, max_steps=1, callbacks=[ScoreTable(path, "global", COLUMNS)], **settings
    )
    module = Fitted()
    trainer.fit(module, datamodule=StreamData())
    # As many cases, so that only where they come from tells that they are others.
    loaders = [DataLoader(Cases(), batch_size=4)] if given else []
    with pytest.raises(
        ConfigError, match=r"'patient'. case_rows\(\) was not asked, as .* predict\(module, datamodule="
    ):
        trainer.predict(module, *loaders)
    assert not path.exists()
    trainer.predict(module, datamodule=Data())
    assert [row["patient"] for row in rows_of(path)] == [f"p{index // 2}" for index in range(COUNT)]


def test_rows_by_index_are_not_taken_where_a_loader_tells_no_index(tmp_path):
    path = tmp_path / "t.csv"
    for data in (StreamData(), Unbatched()):
        with pytest.raises(
            ConfigError, match=r"'(patient|age)'. case_rows\(\) goes by index, and this loader does not tell"
        ):
            predict(ScoreTable(path, "global", COLUMNS), data=data)
        assert not path.exists()
    predict(ScoreTable(path, "global"), data=StreamData())
    assert [row["patient"] for row in rows_of(path)] == [f"q{index}" for index in reversed(range(COUNT))]


def test_the_indices_of_an_earlier_loader_are_not_those_of_a_stream(tmp_path):
    path = tmp_path / "t.csv"
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.callbacks.append(ScoreTable(tmp_path / "first.csv", "global", COLUMNS))
    trainer.predict(Scores(), datamodule=Data())
    trainer.callbacks[-1] = ScoreTable(path, "global")
    trainer.predict(Scores(), dataloaders=DataLoader(Stream(), batch_size=4))
    assert [row["patient"] for row in rows_of(path)] == [f"q{index}" for index in reversed(range(COUNT))]


@pytest.mark.parametrize("change", [-1, 1])
def test_more_or_fewer_rows_than_cases_are_not_taken(tmp_path, change):
    class Other(Data):
        def case_rows(self):
            return (super().case_rows() * 2)[: COUNT + change]

    with pytest.raises(ConfigError, match=rf"case_rows\(\) has {COUNT + change} rows for a data set of {COUNT} cases"):
        predict(ScoreTable(tmp_path / "t.csv", "global", COLUMNS), data=Other())
    predict(ScoreTable(tmp_path / "t.csv", "global", ["label"]), data=Other())
    assert len(rows_of(tmp_path / "t.csv")) == COUNT


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
        (lambda logits: {"probability": torch.sigmoid(logits)}, COLUMNS, ConfigError, "under 'score'"),
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
