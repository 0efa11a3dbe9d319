"""The evaluate command on tables as other people write them: the same recall, or one line that says why not."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_screen import CORRECT, planted_screen, recall

from analysis import evaluate

FEATURES = [f"feature_{i}" for i in range(8)]


@pytest.fixture
def screen(tmp_path):
    return planted_screen(tmp_path)


def found(capsys, arguments):
    assert evaluate.main([*arguments, "--json", "--bootstrap", "0"]) == 0
    return json.loads(capsys.readouterr().out)


def values(result):
    return [(row["recall"], row["pairs"], row["chance"]) for row in result["recall"]]


def wells(folder):
    return pd.read_parquet(folder / "wells.parquet")


def error(capsys, arguments):
    assert evaluate.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


REWRITTEN = {
    "categories": lambda t: t.astype(dict.fromkeys(["experiment", "gene", "treatment"], "category")),
    "nullable": lambda t: t.convert_dtypes(),
    "Arrow-backed": lambda t: t.convert_dtypes(dtype_backend="pyarrow"),
    "genes in the index": lambda t: t.set_index("gene"),
    "numbers as names": lambda t: t.set_index(["key", "experiment", "gene", "treatment"]).set_axis(range(8), axis=1),
    "another family's name": lambda t: t.rename(columns=lambda name: name.replace("feature_", "emb_")),
    "float32": lambda t: t.astype(dict.fromkeys(FEATURES, "float32")),
    "metadata that are numbers": lambda t: t.rename(columns=lambda name: name.replace("feature_", "emb_")).assign(
        row=range(len(t)), cell_count=7, concentration=1.5, confluency=np.arange(len(t)) % 3
    ),
}


@pytest.mark.parametrize("kind", REWRITTEN)
def test_the_same_wells_in_another_table_have_the_same_recall(screen, capsys, kind):
    expected = values(found(capsys, recall(screen, *CORRECT)))
    REWRITTEN[kind](wells(screen)).to_parquet(screen / "wells.parquet")
    result = found(capsys, recall(screen, *CORRECT))
    assert [row[1:] for row in values(result)] == [row[1:] for row in expected]
    assert values(result)[0][0] == pytest.approx(expected[0][0], abs=1e-6)
    assert result["features"] == 8


def test_an_embedding_in_a_list_is_the_embedding(screen, capsys):
    table = wells(screen)
    expected = found(capsys, recall(screen, *CORRECT))
    lists = pa.array(table[FEATURES].to_numpy().tolist(), pa.list_(pa.float64()))
    rest = pa.Table.from_pandas(table.drop(columns=FEATURES).assign(concentration=0.5, n=3))
    pq.write_table(rest.append_column("embedding", lists), screen / "wells.parquet")
    result = found(capsys, recall(screen, *CORRECT))
    assert values(result) == values(expected)
    assert (result["features"], result["first_not_features"]) == (8, ["concentration", "n"])
    assert evaluate.main(recall(screen, "--bootstrap", "0")) == 0
    printed = capsys.readouterr().out
    assert "features: 8 (embedding_0, embedding_1, embedding_2, ...)" in printed
    assert "not features, though numbers: 2 (concentration, n)" in printed


@pytest.mark.parametrize("name", ["NA", "None", "nan", "null", "#N/A", "001"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_that_look_missing_are_names_of_controls_and_genes(screen, capsys, name, suffix):
    expected = values(found(capsys, recall(screen, *CORRECT)))
    table = wells(screen).replace({"treatment": {"EMPTY_control": name}, "gene": {"G00": "NA"}})
    path = screen / f"other.{suffix}"
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    pairs = (screen / "pairs.csv").read_text().replace("G00", "NA")
    (screen / "pairs.csv").write_text(pairs)
    arguments = recall(screen, *CORRECT[:-1], f"treatment={name}")
    arguments[1] = str(path)
    assert values(found(capsys, arguments)) == expected


def test_a_blank_can_be_named_and_is_counted(screen, capsys):
    expected = values(found(capsys, recall(screen, *CORRECT)))
    table = wells(screen)
    table.assign(treatment=table["treatment"].replace("EMPTY_control", None)).to_parquet(screen / "wells.parquet")
    assert values(found(capsys, recall(screen, *CORRECT[:-1], "treatment="))) == expected
    assert "treatment holds (blank)" in error(capsys, recall(screen, *CORRECT))
    table.loc[table["gene"] == "G00", "treatment"] = ""
    table.to_parquet(screen / "wells.parquet")
    assert found(capsys, recall(screen, *CORRECT))["wells_without_control_value"] == 2


def test_wells_without_a_batch_are_counted_and_refused(screen, capsys):
    table = wells(screen)
    table.loc[:20, "experiment"] = None
    table.to_csv(screen / "other.csv", index=False)
    arguments = recall(screen, *CORRECT)
    arguments[1] = str(screen / "other.csv")
    assert "21 of 64 wells have no experiment, the first is key e1-0" in error(capsys, arguments)


def test_a_cell_that_is_no_number_is_missing_or_refused_and_never_makes_a_column_metadata(screen, capsys):
    table = wells(screen).rename(columns=lambda name: name.replace("feature_", "emb_"))
    texts = table.astype(dict.fromkeys(["emb_2", "emb_5"], str))
    texts.loc[3, "emb_2"], texts.loc[9, "emb_5"] = "#DIV/0!", "-nan(ind)"
    texts.to_csv(screen / "other.csv", index=False)
    arguments = recall(screen, *CORRECT)
    arguments[1] = str(screen / "other.csv")
    result = found(capsys, arguments)
    assert (result["features"], result["excluded"]["features_with_missing"]) == (6, 2)
    texts.loc[9, "emb_5"] = "overflow"
    texts.to_csv(screen / "other.csv", index=False)
    assert "other.csv, line 11: feature 'emb_5' holds 'overflow', which is not a number" in error(capsys, arguments)


def test_fields_of_view_are_rows_of_their_gene_and_only_true_duplicates_are_refused(screen, capsys):
    expected = values(found(capsys, recall(screen, *CORRECT)))
    table = wells(screen).drop(columns="key").assign(plate="1", well=[f"A{n}" for n in range(32)] * 2)
    fields = pd.concat([table.assign(site=site) for site in (1, 2)])
    fields.to_parquet(screen / "wells.parquet")
    result = found(capsys, recall(screen, *CORRECT))
    assert (result["wells"], result["fields"]) == (64, 128)
    assert values(result) == expected
    pd.concat([fields, fields.head(3)]).to_parquet(screen / "wells.parquet")
    message = error(capsys, recall(screen, *CORRECT))
    assert "3 wells occur twice, the first is e1, 1, A0, 1 (experiment and plate and well and site)" in message


@pytest.mark.parametrize("name", ["Metadata_Site", "FOV", "Field ID", "ImageNumber", "Metadata_Tile", "site_number"])
def test_fields_of_view_are_told_apart_by_a_column_of_many_names(screen, capsys, name):
    table = wells(screen).drop(columns="key").assign(plate="1", well=[f"A{n}" for n in range(32)] * 2)
    pd.concat([table.assign(**{name: site}) for site in (1, 2)]).to_csv(screen / "wells.parquet", index=False)
    result = found(capsys, recall(screen, *CORRECT))
    assert (result["wells"], result["fields"], result["features"]) == (64, 128, 8)


def test_files_may_spell_their_columns_differently(screen, capsys):
    expected = values(found(capsys, recall(screen, *CORRECT)))
    parts = [screen / "first.csv", screen / "second.csv"]
    wells(screen).head(30).to_csv(parts[0], index=False)
    others = {name: f"Metadata_{name.title()}" for name in ("key", "experiment", "gene", "treatment")}
    wells(screen).tail(34).rename(columns=others).to_csv(parts[1], index=False)
    command, _, *others = recall(screen, *CORRECT)
    assert values(found(capsys, [command, *map(str, parts), *others])) == expected


def test_a_column_is_found_by_its_name_in_another_spelling(screen, capsys):
    expected = values(found(capsys, recall(screen, *CORRECT)))
    table = wells(screen).rename(columns={"gene": "Gene Symbol"})
    table.to_parquet(screen / "wells.parquet")
    assert values(found(capsys, recall(screen, *CORRECT, "--key", "gene_symbol"))) == expected
    table.assign(gene_symbol="x", Metadata_Gene_Symbol="y").to_parquet(screen / "wells.parquet")
    message = error(capsys, recall(screen, *CORRECT, "--key", "Gene_symbol"))
    assert message.endswith(
        "several columns are called 'Gene_symbol': gene_symbol, Metadata_Gene_Symbol; give one in full"
    )


def test_wells_of_both_tables_meet_whatever_way_they_are_spelt(tmp_path, capsys):
    rng = np.random.default_rng(0)
    places = [
        (experiment, "001", row, column) for experiment in ("e1", "e2") for row in "ab" for column in range(1, 13)
    ]
    embedding = rng.normal(size=(48, 3))
    keys = pd.DataFrame(
        [(e, p, f"{r.upper()}{c:02d}") for e, p, r, c in places], columns=["experiment", "plate", "well"]
    )
    keys.join(pd.DataFrame(embedding, columns=FEATURES[:3])).to_parquet(tmp_path / "wells.parquet")
    otherwise = [(experiment, p, f"{row}{n}") for experiment, p, row, n in places]
    other = pd.DataFrame(otherwise, columns=["Metadata_experiment", "Metadata_Plate", "Metadata_Well"])
    other.assign(Cells_Area=embedding @ [1.0, 2, 3]).to_csv(tmp_path / "features.csv", index=False)
    result = found_cellprofiler(tmp_path, capsys)
    assert (result["train_wells"], result["test_wells"], result["wells_without_match"]) == (24, 24, 0)
    assert result["table7"][0]["median_r2"] > 0.99


def test_fields_of_view_are_averaged_before_tables_are_joined(tmp_path, capsys):
    rng = np.random.default_rng(0)
    keys = pd.DataFrame(
        [(e, "1", f"A{n}") for e in ("e1", "e2") for n in range(1, 25)], columns=["experiment", "plate", "well"]
    )
    embedding = rng.normal(size=(48, 3))
    features = keys.assign(Cells_Area=embedding @ [1.0, 2, 3])
    wells_of = keys.join(pd.DataFrame(embedding, columns=FEATURES[:3]))
    pd.concat([wells_of.assign(site=site) for site in (1, 2)]).to_parquet(tmp_path / "wells.parquet")
    fields = [features.assign(ImageNumber=n, Cells_Area=features["Cells_Area"] + 50 * n) for n in (-1, 1)]
    pd.concat(fields).to_csv(tmp_path / "features.csv", index=False)
    result = found_cellprofiler(tmp_path, capsys)
    assert (result["train_wells"], result["test_wells"], result["wells_without_match"]) == (24, 24, 0)
    assert result["table7"][0]["median_r2"] > 0.99


def found_cellprofiler(folder, capsys):
    tables = [str(folder / "wells.parquet"), "--features", str(folder / "features.csv")]
    columns = ["--on", "experiment", "plate", "well", "--experiment", "experiment", "--train", "e1", "--test", "e2"]
    arguments = ["cellprofiler", *tables, *columns, "--json"]
    assert evaluate.main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def plate(folder, name, barcode, wells=range(1, 25), fields=(1,)):
    """A plate of two compounds and eight controls, whose compounds lie along one axis each."""
    rows = []
    for well in wells:
        for field in fields:
            name_of_well = "" if well > 16 else f"C{well % 2}"
            axis = {"": 0, "C0": 4, "C1": -4}[name_of_well]
            rng = np.random.default_rng([well, field])
            rows.append(
                [barcode, f"A{well}", field, name_of_well, "negcon" if well > 16 else "trt", *rng.normal(axis, 1, 4)]
            )
    columns = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_broad_sample", "Metadata_control_type"]
    path = folder / name
    frame = pd.DataFrame(rows, columns=[*columns, *(f"Cells_{n}" for n in range(4))])
    frame["Metadata_smiles"] = "C"
    path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    return str(path)


def retrieval(capsys, *arguments):
    assert evaluate.main(["retrieval", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_barcode_that_is_a_number_is_a_name(tmp_path, capsys):
    text = retrieval(capsys, plate(tmp_path, "a.csv.gz", "BR1"), plate(tmp_path, "b.csv.gz", "BR2"))
    mixed = retrieval(capsys, plate(tmp_path, "a.csv.gz", "BR1"), plate(tmp_path, "b.csv.gz", 1053601756))
    assert mixed == text
    assert mixed["plates"] == 2


def test_compounds_are_read_whatever_compresses_and_separates_them(tmp_path, capsys):
    profiles = plate(tmp_path, "a.csv.gz", "BR1")
    results = []
    for name, separator in (("compounds.csv", ","), ("compounds.tsv.gz", "\t"), ("compounds", ";")):
        text = separator.join(("broad_sample", "target_list")) + f"\nC0{separator}X|Y\nC1{separator}Y\n"
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        results.append(retrieval(capsys, profiles, "--compounds", str(tmp_path / name)))
    assert results[0] == results[1] == results[2]
    assert results[0]["siblings"] is not None


def test_columns_of_plates_and_compounds_may_lack_their_prefix_or_have_it(tmp_path, capsys):
    profiles = plate(tmp_path, "a.csv.gz", "BR1")
    (tmp_path / "compounds.csv").write_text("broad_sample,target\nC0,X|Y\nC1,Y\n")
    (tmp_path / "others.csv").write_text("Metadata_broad_sample,Metadata_Target\nC0,X|Y\nC1,Y\n")
    expected = retrieval(capsys, profiles, "--compounds", str(tmp_path / "compounds.csv"))
    assert retrieval(capsys, profiles, "--compounds", str(tmp_path / "others.csv")) == expected
    unprefixed = pd.read_csv(profiles).rename(columns=lambda name: name.removeprefix("Metadata_"))
    unprefixed.to_csv(tmp_path / "b.csv", index=False)
    assert retrieval(capsys, str(tmp_path / "b.csv")) == retrieval(capsys, profiles)


def test_retrieval_averages_fields_of_view_to_wells(tmp_path, capsys):
    """A well's own fields would be its nearest neighbours; its replicates are other wells."""
    result = retrieval(capsys, plate(tmp_path, "a.csv.gz", "BR1", fields=(1, 2, 3)))
    assert (result["wells"], result["perturbations"]["queries"]) == (24, 16)
