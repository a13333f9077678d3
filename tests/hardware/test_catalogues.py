import json
from pathlib import Path

import pytest

from planner.errors import JobError
from planner.hardware import find_gpu
from planner.hardware.catalogues import cheapest, read_catalogue, read_catalogues
from planner.hardware.machine import HourlyPrice, Machine
from planner.units import GB, GIB, MIB

SKYPILOT = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice\n"
GPUHUNT = "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor,flags\n"
PLAIN = "name,gpu,gpus,ram,disk,price,currency,region,source\n"


def info(name: str, count: float, size: int, total: int) -> str:
    """GpuInfo as SkyPilot writes it: a Python dict, quoted for CSV."""
    gpus = [{"Name": name, "Manufacturer": "NVIDIA", "Count": count, "MemoryInfo": {"SizeInMiB": size}}]
    return '"' + repr({"Gpus": gpus, "TotalGpuMemoryInMiB": total}) + '"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "acme"
    folder.mkdir()
    return folder


def written(folder: Path, text: str, name: str = "vms.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def only(path: Path) -> Machine:
    (machine,) = read_catalogue(path).machines
    return machine


# ---------------------------------------------------------------------- SkyPilot
def test_skypilots_row_is_a_machine(folder: Path) -> None:
    row = f"gpu_4x_a6000,A6000,4.0,56.0,400.0,4.36,us-east-1,{info('A6000', 4.0, 49152, 49152)},\n"
    machine = only(written(folder, SKYPILOT + row))
    assert (machine.name, machine.cloud, machine.region) == ("gpu_4x_a6000", "acme", "us-east-1")
    assert (machine.gpu, machine.gpus, machine.sm) == ("RTX A6000", 4, 86)
    assert machine.gpu_memory_bytes == find_gpu("RTX A6000").memory_bytes
    assert (machine.ram_bytes, machine.cores) == (400 * GIB, 56)
    assert machine.price == HourlyPrice(amount=4.36, currency="USD")
    assert machine.source.endswith("acme/vms.csv")
    assert machine.date
    assert machine.disk_bytes is None


def test_skypilots_columns_may_stand_in_any_order(folder: Path) -> None:
    text = "Region,Price,MemoryGiB,AcceleratorCount,GpuInfo,AcceleratorName,InstanceType\nUS,1.39,117.0,1.0,,L40S,x\n"
    machine = only(written(folder, text))
    assert (machine.name, machine.gpu, machine.ram_bytes, machine.cores) == ("x", "L40S", 117 * GIB, None)


@pytest.mark.parametrize(
    ("name", "count", "size", "total", "card"),
    [
        ("A100-80GB", 2, 80, 160, "A100 80GB SXM"),  # RunPod: GB
        ("H200", 2, 287542, 287542, "H200"),  # Vast: all cards together
        ("V100", 8, 16384, 16384, "V100 16GB"),  # Lambda: one card, and a total that is none
        ("A100", 8, 40960, 327680, "A100 40GB PCIe"),  # AWS
        ("H100", 1, 95830, 95830, "H100 NVL"),
    ],
)
def test_a_cards_memory_is_read_as_each_cloud_writes_it(
    folder: Path, name: str, count: int, size: int, total: int, card: str
) -> None:
    row = f"m,{name},{count},32,64.0,1.0,US,{info(name, count, size, total)},\n"
    machine = only(written(folder, SKYPILOT + row))
    assert machine.gpu == card
    assert machine.gpu_memory_bytes == find_gpu(card).memory_bytes


@pytest.mark.parametrize(
    ("name", "count", "size", "total", "each"),
    [
        ("RTX4090", 1, 49140, 49140, 49140 * MIB),  # rebuilt to 48 GB
        ("RTXA2000", 8, 49104, 49104, 6138 * MIB),  # of one or of eight: the smaller
        ("RTXA4500", 4, 20475, 81900, 20475 * MIB),
        ("Gaudi9", 2, 96, 192, 96 * GB),
    ],
)
def test_a_card_that_is_not_in_the_table_is_kept_by_its_memory_and_says_so(
    folder: Path, name: str, count: int, size: int, total: int, each: int
) -> None:
    row = f"m,{name},{count},32,64.0,1.0,US,{info(name, count, size, total)},\n"
    machine = only(written(folder, SKYPILOT + row))
    assert (machine.gpu, machine.gpu_memory_bytes, machine.sm) == (name, each, None)
    (note,) = machine.gpu_notes
    assert f"{name} is not in the table" in note
    assert "CUDA has less" in note


def test_gpu_info_may_be_json(folder: Path) -> None:
    text = json.dumps({"Gpus": [{"MemoryInfo": {"SizeInMiB": 81559}}]}).replace('"', '""')
    assert only(written(folder, SKYPILOT + f'm,H100,1,32,64,1.0,US,"{text}",\n')).gpu == "H100 SXM"


def test_of_rows_that_repeat_a_machine_the_cheapest_region_is_kept_and_they_are_counted(folder: Path) -> None:
    rows = "".join(f"m,L4,1,8,32,{price},{region},,\n" for price, region in (("", "a"), (2, "b"), (1, "c"), (3, "d")))
    read = read_catalogue(written(folder, SKYPILOT + rows))
    assert [(each.region, each.price and each.price.amount) for each in read.machines] == [("c", 1)]
    assert "4 rows are 1 machines in several regions; the cheapest" in read.notes[0]


def test_a_price_that_nobody_knows_is_none(folder: Path) -> None:
    assert only(written(folder, SKYPILOT + "m,L4,1,8,32,,a,,\n")).price is None
    assert only(written(folder, SKYPILOT + "m,L4,1,8,32,0.0,a,,\n")).price is None


def test_rows_that_are_no_machine_with_whole_known_cards_are_counted_by_reason(folder: Path) -> None:
    rows = "cpu,,,4,16,0.2,a,,\ncpu2,,,4,16,0.2,a,,\n,A100,1,,,2.9,a,,\nshare,A10,0.5,18,220,1,a,,\n"
    rows += "q,Quokka,1,4,16,1,a,,\n"
    read = read_catalogue(written(folder, SKYPILOT + rows))
    assert read.machines == ()
    notes = "\n".join(read.notes)
    assert "2 rows left out: without a GPU" in notes
    assert "1 row left out: of a card alone" in notes
    assert "1 row left out: with a share of a card" in notes
    assert "1 row left out: with a card that is not in the table and whose memory" in notes


# ---------------------------------------------------------------------- gpuhunt
def test_gpuhunts_row_is_a_machine_with_sizes_in_gb(folder: Path) -> None:
    row = "NVIDIA A40,CA-MTL-1,0.4,9,48.0,1,A40,48.0,False,100.0,nvidia,\n"
    machine = only(written(folder, GPUHUNT + row, "runpod.csv"))
    assert (machine.name, machine.cloud, machine.region) == ("NVIDIA A40", "runpod", "CA-MTL-1")
    assert (machine.gpu, machine.gpus, machine.cores) == ("A40", 1, 9)
    assert (machine.ram_bytes, machine.disk_bytes) == (48 * GB, 100 * GB)
    assert machine.price == HourlyPrice(amount=0.4, currency="USD")


def test_gpuhunts_spot_offers_and_machines_without_gpus_are_left_out_and_counted(folder: Path) -> None:
    rows = "a,r,0.4,9,48.0,1,A40,48.0,True,,nvidia,\nb,r,0.4,9,48.0,0,,,False,,,\nc,r,0.4,9,48.0,1,A100,40.0,False,,,\n"
    read = read_catalogue(written(folder, GPUHUNT + rows))
    assert [(machine.name, machine.gpu) for machine in read.machines] == [("c", "A100 40GB PCIe")]
    assert any("1 row left out: at a spot price" in note for note in read.notes)
    assert any("1 row left out: without a GPU" in note for note in read.notes)


# ---------------------------------------------------------------------- a table of one's own
def test_a_plain_row_is_a_machine(folder: Path) -> None:
    machine = only(written(folder, PLAIN + "box,rtx4090,2,128GiB,2TB,0.5,eur,cellar,my own\n", "mine.csv"))
    assert (machine.name, machine.gpu, machine.gpus, machine.cloud) == ("box", "RTX 4090", 2, None)
    assert (machine.ram_bytes, machine.disk_bytes) == (128 * GIB, 2000 * GB)
    assert machine.price == HourlyPrice(amount=0.5, currency="EUR")
    assert (machine.region, machine.source) == ("cellar", "my own")


def test_a_plain_row_needs_a_name_and_a_card_only_and_a_card_may_be_a_size(folder: Path) -> None:
    machine = only(written(folder, "gpu,name\n24GiB,box\n"))
    assert (machine.gpu, machine.gpu_memory_bytes, machine.gpus) == (None, 24 * GIB, 1)
    assert (machine.ram_bytes, machine.price, machine.region) == (None, None, None)
    assert machine.source.endswith("vms.csv")


# ---------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SKYPILOT + "m,L4,1,8,32,cheap,a,,\n", r"row 2, column Price: 'cheap' is not a number; write one"),
        (SKYPILOT + "m,L4,1,8,32,1,a,,\nm,L4,1,8,-32,1,a,,\n", r"row 3, column MemoryGiB: '-32' is not a number"),
        (SKYPILOT + "m,L4,1,8,nan,1,a,,\n", "column MemoryGiB: 'nan' is not a number"),
        (SKYPILOT + "m,L4,1,8,1e30,1,a,,\n", "column MemoryGiB: '1e30' is more than 1,024.00 TiB"),
        (SKYPILOT + "m,L4,1e9,8,32,1,a,,\n", "column AcceleratorCount: '1e9' is more than 65,536"),
        (SKYPILOT + 'm,L4,1,8,32,1,a,"{oops",\n', "column GpuInfo: '{oops' is neither JSON nor a Python dict"),
        (SKYPILOT + f'm,L4,1,8,32,1,a,"{"[" * 5000}",\n', "column GpuInfo: .* is neither JSON nor a Python dict"),
        (GPUHUNT + ",r,0.4,9,48.0,1,A40,48.0,False,,,\n", "row 2, column instance_name: is empty; write a value"),
        (PLAIN + "box,,,,,,,,\n", "row 2, column gpu: is empty; write a value, or take the row out"),
        (PLAIN + "box,rtx4091,,,,,,,\n", "row 2, column gpu: unknown GPU 'rtx4091'; the nearest names are RTX 4090"),
        (PLAIN + "box,l4,1,64,,,,,\n", "row 2, column ram: '64' has no unit.*write 64GiB"),
        (PLAIN + "box,l4,1,much,,,,,\n", "row 2, column ram: 'much' is not a size"),
        (PLAIN + "box,l4,1,2000TiB,,,,,\n", "row 2, column ram: '2000TiB' is more than"),
        (PLAIN + "box,l4,1,,,1.5,,,\n", "row 2, column currency: '' is not a currency; write one like USD"),
        (PLAIN + "box,l4,1,,,1.5,$,,\n", r"column currency: '\$' is not a currency"),
        (PLAIN + "box,l4,1,64GiB,,1,USD,cellar,mine,5\n", "row 2: has more cells than the table has columns; quote"),
        (
            "a,b\n1,2\n",
            "no catalogue of SkyPilot or gpuhunt, and no table with columns name and gpu; its columns are a, b",
        ),
        ("", "its columns are none"),
    ],
)
def test_a_mistake_in_a_catalogue_is_said_with_its_place_and_the_way_out(folder: Path, text: str, said: str) -> None:
    with pytest.raises(JobError, match=said) as refused:
        read_catalogue(written(folder, text))
    assert "vms.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_one_line(folder: Path) -> None:
    with pytest.raises(JobError, match=r"--catalogue .*nowhere.csv: No such file"):
        read_catalogues([str(folder / "nowhere.csv")])
    (folder / "vms.csv").write_bytes(b"name,gpu\n\xff\xfe,l4\n")
    with pytest.raises(JobError, match="is not text in UTF-8; save it"):
        read_catalogues([str(folder / "vms.csv")])
    (folder / "vms.csv").write_text('name,gpu\n"' + "x" * 200_000 + '",l4\n', encoding="utf-8")
    with pytest.raises(JobError, match="is no CSV file: field larger"):
        read_catalogues([str(folder / "vms.csv")])


# ---------------------------------------------------------------------- folders
def test_a_folder_of_skypilot_is_read_cloud_by_cloud(tmp_path: Path) -> None:
    for cloud in ("b", "a"):
        (tmp_path / cloud).mkdir()
        written(tmp_path / cloud, SKYPILOT + "m,L4,1,8,32,1,r,,\n")
    machines = read_catalogues([str(tmp_path)]).machines
    assert [(machine.cloud, machine.name) for machine in machines] == [("a", "m"), ("b", "m")]


def test_a_folder_without_catalogues_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"the folder has no <cloud>/vms.csv; name a file"):
        read_catalogues([str(tmp_path)])


def test_prices_in_two_currencies_are_not_compared() -> None:
    first = Machine(name="m", price=HourlyPrice(amount=2, currency="USD"), source="a test")
    other = Machine(name="m", price=HourlyPrice(amount=1, currency="EUR"), source="a test")
    assert cheapest([first, other]) == (first,)
