"""What is wrong with a profile file is said when it is loaded, with file and key."""

import tomllib
from pathlib import Path

import pytest

from device_profiles.catalogue import ProfileFault, Profiles, load_profile, load_profiles

RIGHT = {
    "dust": """
id = "a"
title = "a"
kind = "dust"
format = "json"
[fits]
make = "acme"
[time]
at = "t"
format = "epoch_s"
[values.pm10_ug_m3]
at = "pm10"
unit = "mg/m3"
range = [0, 10]
[example]
payload = "{}"
readings = [{ observed_at = 2026-03-01T00:00:00Z }]
""",
    "crane": """
id = "b"
title = "b"
kind = "crane"
format = "json"
[time]
at = "t"
format = "%Y%m%d%H%M%S"
zone = "Asia/Shanghai"
[values.load_t]
at = "load"
[values.rated_load_t]
at = "rated"
[values.moment_pct]
at = "moment"
[[alarms]]
at = "bits"
bits = "right"
width = 8
names = { 0 = "overload" }
[[contradictions]]
says = "moment_pct"
percent_of = ["load_t", "rated_load_t"]
""",
    "struct": """
id = "c"
title = "c"
kind = "crane"
format = "struct"
[frame]
start = "A5"
[time]
at = 1
type = "bcd6"
zone = "Asia/Shanghai"
[values.load_t]
at = 7
type = "u16"
[[alarms]]
at = 9
type = "u8"
bits = "number"
names = { 0 = "overload" }
""",
    "text": """
id = "d"
title = "d"
kind = "dust"
format = "text"
[text]
pattern = '(?P<t>\\d+) (?P<pm10>\\S+)'
[time]
at = "t"
format = "epoch_s"
[values.pm10_ug_m3]
at = "pm10"
""",
    "csv": """
id = "e"
title = "e"
kind = "dust"
format = "csv"
[csv]
columns = ["t", "pm10"]
[time]
at = "t"
format = "epoch_s"
[values.pm10_ug_m3]
at = "pm10"
""",
    "event": """
id = "f"
title = "f"
kind = "camera"
format = "event"
[time]
at = "t"
format = "epoch_s"
[picture]
at = "image"
[verdict]
what = "no_helmet"
[boxes]
at = "box"
""",
    "hj212": """
id = "g"
title = "g"
kind = "dust"
format = "hj212"
[hj212]
tolerate = ["length"]
""",
}

FAULTS = [
    # base, what is replaced, by what, the key that is named, what is said of it
    ("dust", 'at = "pm10"', 'att = "pm10"', "values.pm10_ug_m3.att", "Extra inputs"),
    ("dust", 'title = "a"', 'titel = "a"', "titel", "Extra inputs"),
    ("dust", 'title = "a"', "", "title", "required"),
    ("dust", 'id = "a"', 'id = "A/B"', "id", "match pattern"),
    ("dust", 'kind = "dust"', 'kind = "lift"', "kind", "'dust', 'crane' or 'camera'"),
    ("dust", 'format = "json"', 'format = "xml"', "format", "'json'"),
    ("dust", '"mg/m3"', '"kPa"', "values.pm10_ug_m3.unit", "measures pressure"),
    ("dust", '"mg/m3"', '"ppm"', "values.pm10_ug_m3.unit", "'ppm' is not known"),
    ("dust", "[0, 10]", "[10, 0]", "values.pm10_ug_m3", "the wrong way round"),
    ("dust", "[0, 10]", "[100, 200]", "values.pm10_ug_m3.range", "lies outside of what can be"),
    ("dust", "[0, 10]", "[0, 10]\nscale = 0", "values.pm10_ug_m3", "scale is 0"),
    ("dust", "[0, 10]", "[0, nan]", "values.pm10_ug_m3.range.1", "finite number"),
    ("dust", "[values.pm10_ug_m3]", "[values.pm100]", "values.pm100", "no such quantity"),
    ("dust", '"pm10"', '"a..b"', "values.pm10_ug_m3.at", "cannot be read from its character 2"),
    ("dust", '"pm10"', '"a[*].b"', "values.pm10_ug_m3.at", "[*] names several things"),
    ("dust", '"pm10"', "5", "values.pm10_ug_m3.at", "a path is wanted"),
    ("dust", '"pm10"', "true", "values.pm10_ug_m3.at", "neither a path nor a byte offset"),
    ("dust", '"pm10"', '"p"\ntype = "u8"', "values.pm10_ug_m3.type", "belongs to format 'struct'"),
    (
        "dust",
        '"pm10"',
        '"p"\nwords = { x = -1 }',
        "values.pm10_ug_m3.words",
        "'x' = -1 is not within",
    ),
    ("dust", '"pm10"', '"p"\nwords = "colours"', "values.pm10_ug_m3.words", "'winds'"),
    ("dust", '"epoch_s"', '"epoch"', "time", "'epoch' is not rfc3339"),
    ("dust", '"epoch_s"', '"%d %b %Y"\nzone = "UTC"', "time", "%b is not among"),
    ("dust", '"epoch_s"', '"%H:%M"\nzone = "UTC"', "time", "does not say the year"),
    ("dust", '"epoch_s"', '"%Y-%m-%d %H:%M"', "time", "zone is missing"),
    ("dust", '"epoch_s"', '"%Y-%m-%d %Y"\nzone = "UTC"', "time", "says the year twice"),
    ("dust", '"epoch_s"', '"epoch_s"\nzone = "Beijing"', "time.zone", "not an IANA time zone"),
    ("dust", 'at = "t"', 'absent = "refuse"', "time", "at is missing"),
    ("dust", "[time]", "[tim]", "tim", "Extra inputs"),
    ("dust", 'make = "acme"', 'make = ""', "fits.make", "at least 1 character"),
    ("dust", 'make = "acme"', 'make = "x"\nfirmware = "2.x"', "fits.firmware", "not like '>=2.0'"),
    ("dust", 'make = "acme"', 'make = "x"\ntopics = ["a/#"]', "fits.topics", "neither plain nor"),
    ("dust", "[time]", "[each]\nor_alone = true\n[time]", "each", "goes with at = '[*]'"),
    (
        "dust",
        "[time]",
        '[each]\ndevice = "d"\nkey_is_device = true\n[time]',
        "each",
        "either device",
    ),
    ("dust", "[time]", '[csv]\ncolumns = ["t"]\n[time]', "the whole file", "[csv] does not belong"),
    (
        "dust",
        "[time]",
        '[[alarms]]\nat = "x"\nname = "y"\n[time]',
        "the whole file",
        "belong to cranes",
    ),
    ("dust", "[example]", "[example]\nextra = 1", "example.extra", "Extra inputs"),
    ("dust", 'payload = "{}"', "", "example", "either payload or payload_hex"),
    (
        "dust",
        "2026-03-01T00:00:00Z",
        "2026-03-01T00:00:00",
        "example.readings.0.observed_at",
        "timezone",
    ),
    ("crane", "width = 8", "width = 65", "alarms.0.width", "less than or equal to 64"),
    ("crane", "0 =", "8 =", "alarms.0", "'8' is not a bit from 0 to 7"),
    ("crane", "0 =", "x =", "alarms.0", "'x' is not a bit"),
    ("crane", 'bits = "right"', 'bits = "up"', "alarms.0.bits", "'right', 'left' or 'number'"),
    ("crane", 'bits = "right"', "", "alarms.0", "either name (one alarm) or bits"),
    ("crane", 'names = { 0 = "overload" }', "", "alarms.0", "names is missing"),
    ("crane", 'says = "moment_pct"', "", "contradictions.0", "says goes with"),
    (
        "crane",
        'says = "moment_pct"',
        'says = "tilt_deg"',
        "contradictions",
        "'tilt_deg' is not among",
    ),
    (
        "crane",
        'says = "moment_pct"',
        'says = "moment_pct"\nalso_at = "x"',
        "contradictions.0",
        "one of",
    ),
    ("struct", "at = 7", 'at = "seven"', "values.load_t.at", "a byte offset is wanted"),
    ("struct", "at = 7", "at = 70000", "values.load_t.at", "farther than"),
    ("struct", 'type = "u16"', "", "values.load_t.type", "is missing"),
    ("struct", 'type = "u16"', 'type = "u12"', "values.load_t.type", "'u16'"),
    (
        "struct",
        'type = "u16"',
        'type = "u16"\nwords = { a = 1 }',
        "values.load_t",
        "words and flag",
    ),
    ("struct", "at = 1\n", 'at = "t"\n', "time", "do not suit the format"),
    ("struct", 'start = "A5"', 'start = "A"', "frame.start", "match pattern"),
    ("struct", 'bits = "number"', 'bits = "left"', "alarms.0.bits", "are a 'number'"),
    ("struct", "0 =", "9 =", "alarms.0.names", "u8 has 8 bits"),
    ("struct", "[frame]", 'series = { at = "x", words = {} }\n[frame]', "series", "has one"),
    ("struct", "[frame]", 'seq = "n"\n[frame]', "the whole file", "[seq] does not belong"),
    ("text", "(?P<pm10>", "(", "values.pm10_ug_m3.at", "no named group of text.pattern"),
    ("text", "(?P<t>", "(?P<t", "text.pattern", "no regular expression"),
    ("text", "'(?P<t>\\d+) (?P<pm10>\\S+)'", "'.*'", "text.pattern", "no named group"),
    ("csv", '"pm10"]', '"pm25"]', "values.pm10_ug_m3.at", "not one of csv.columns"),
    ("csv", '"pm10"]', '"t", "pm10"]', "csv", "'t' stands twice"),
    ("csv", "[csv]", "[csv]\ndelimiter = ';;'", "csv.delimiter", "at most 1 character"),
    ("csv", "[csv]", "[csv]\ndelimiter = '\"'", "csv", "cannot divide columns"),
    ("event", "[picture]\nat", "[picture]\nsize = 1\nat", "picture.size", "Extra inputs"),
    ("event", 'what = "no_helmet"', 'what = "smoking"', "verdict.what", "'no_helmet'"),
    ("event", 'what = "no_helmet"', "", "verdict", "either what"),
    ("event", '[boxes]\nat = "box"', '[boxes]\nlabel = "l"', "boxes", "either at"),
    ("event", '[verdict]\nwhat = "no_helmet"', "", "the whole file", "needs [time] and [verdict]"),
    ("event", 'kind = "camera"', 'kind = "dust"', "the whole file", "a dust has no format 'event'"),
    ("hj212", '"length"', '"crc_md5"', "hj212", "'crc_md5' is not one of"),
    ("hj212", "[hj212]", '[hj212]\ndialects = ["x"]', "hj212", "'x' is not one of"),
    ("hj212", "[hj212]", '[hj212]\ndust_unit = "g/m3"', "hj212.dust_unit", "'ug/m3'"),
    (
        "hj212",
        "[hj212]",
        "[values.pm10_ug_m3]\nat = 'x'\n[hj212]",
        "the whole file",
        "[values] does not",
    ),
]


def write(folder: Path, text: str, name: str = "model.toml") -> Path:
    file = folder / name
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize("base", RIGHT)
def test_the_bases_are_right(tmp_path: Path, base: str) -> None:
    loaded = load_profile(write(tmp_path, RIGHT[base])).sheet
    assert loaded.id == tomllib.loads(RIGHT[base])["id"]


@pytest.mark.parametrize(
    ("base", "old", "new", "key", "said"),
    FAULTS,
    ids=[f"{f[0]}-{f[3]}-{f[2][:24]}" for f in FAULTS],
)
def test_a_fault_is_told_with_file_and_key(
    tmp_path: Path, base: str, old: str, new: str, key: str, said: str
) -> None:
    assert old in RIGHT[base]
    file = write(tmp_path, RIGHT[base].replace(old, new, 1))
    with pytest.raises(ProfileFault) as caught:
        load_profile(file)
    lines = [line for line in caught.value.faults if line.startswith(f"{file}: {key}: ")]
    assert lines, caught.value.faults
    assert any(said in line for line in lines), lines


def test_every_fault_of_every_file_is_told(tmp_path: Path) -> None:
    write(tmp_path, RIGHT["dust"].replace('title = "a"', "").replace('"mg/m3"', "5"), "one.toml")
    write(tmp_path, "id = ", "two.toml")
    (tmp_path / "three.toml").write_bytes(b"\xff")
    (tmp_path / "four.toml").write_bytes(b"#" * 300_000)
    with pytest.raises(ProfileFault) as caught:
        load_profiles([tmp_path, tmp_path / "nowhere"])
    told = "\n".join(caught.value.faults)
    for said in (
        "one.toml: title:",
        "one.toml: values.pm10_ug_m3.unit:",
        "two.toml: not TOML",
        "three.toml: not UTF-8",
        "four.toml: larger than",
        "nowhere: there is no such folder",
    ):
        assert said in told
    with pytest.raises(ProfileFault, match=r"gone\.toml: No such file"):
        load_profile(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ('models = ["X-*"]', 'models = ["X-1"]', "models 'x-1' and 'x-*'"),
        ('models = ["*-2"]', 'models = ["X-*"]', "models 'x-*' and '*-2'"),
        ('models = ["X?"]', 'models = ["*1"]', "models '*1' and 'x?'"),
        ('models = ["a[12]"]', 'models = ["b"]', "models 'b' and 'a[12]'"),
        ('firmware = ">=1"', 'firmware = "<2"', "models '*' and '*'"),
        ('firmware = "<=2.0"', 'firmware = ">=2"', "models '*' and '*'"),
        ('firmware = "==1.4"', 'firmware = ">1.3, <1.5"', "models '*' and '*'"),
        ('firmware = ""', 'firmware = ">9"', "models '*' and '*'"),
    ],
)
def test_overlaps_are_refused(tmp_path: Path, one: str, other: str, shared: str) -> None:
    files = [
        write(tmp_path, RIGHT["dust"].replace('make = "acme"', f'make = "{make}"\n{more}')
              .replace('id = "a"', f'id = "{name}"'), f"{name}.toml")
        for name, make, more in (("p1", "Acme", one), ("p2", "ACME", other))
    ]  # fmt: skip
    first, second = map(load_profile, files)
    with pytest.raises(ProfileFault) as caught:
        Profiles([first, second])
    (line,) = caught.value.faults
    assert line.startswith(f"{files[1]}: fits: ")
    assert shared in line.casefold()
    assert f"could be of 'p1' too ({files[0]})" in line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('models = ["X-*"]', 'models = ["Y-*"]'),
        ('models = ["A?"]', 'models = ["A"]'),
        ('firmware = "<2"', 'firmware = ">=2"'),
        ('firmware = "<=2.1"', 'firmware = ">2.1"'),
        ('firmware = "==2"', 'firmware = "==2.1"'),
    ],
)
def test_neighbours_are_not_overlaps(tmp_path: Path, one: str, other: str) -> None:
    profiles = []
    for name, more in (("p1", one), ("p2", other)):
        text = RIGHT["dust"].replace('make = "acme"', f'make = "acme"\n{more}')
        profiles.append(load_profile(write(tmp_path, text.replace('"a"', f'"{name}"', 1))))
    assert len(Profiles(profiles)) == 2


def test_one_id_is_one_profile(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", RIGHT["hj212"].replace('id = "g"', 'id = "hj212"'))
    with pytest.raises(ProfileFault, match=r"id: 'hj212' is that of .*dust\.toml too"):
        load_profiles([tmp_path])
