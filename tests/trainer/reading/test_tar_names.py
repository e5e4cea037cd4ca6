"""Tests of names of streamed tars: they hold no credentials, survive their rotation, and tell tars apart."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from trainer.reading.streamed_tars import Tars
from trainer.reading.tar_names import MASK, masked, tar_name, tar_names

SECRETS = (
    "s3cr3tT0ken",
    "hunter2hunter2",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "dXNlcjpwYXNz==",
    "JBSWY3DPEHPK3PXP=",
    "/K7MDENG/bPxRfiCY",
    "/K7MD/bPxR=",
    "hunter2.tar",
    "/K7MDENG/hunter2.tar",
    "123456",
)
WITH_CREDENTIALS = [
    "https://host/a.tar?X-Amz-Signature={0}&X-Amz-Expires=3600",
    "https://me:{0}@host/a.tar?sig={0}#{1}",
    "sftp://me:{0}@host/a.tar",
    "pipe:curl -s -H 'Authorization: Bearer {0}' https://host/a.tar",
    'pipe:curl -s -H "X-Api-Key: {0}" https://host/a.tar | gunzip',
    "pipe:curl -sL 'https://host/a.tar?x=1&sig={0}&se=2026' -o -",
    "pipe:curl -sL https://host/a.tar?sig={0}&x=1 | zstd -dc",
    "pipe:curl --user me:{0} https://host/a.tar",
    "pipe:curl --user=me:{0} https://host/a.tar",
    "pipe:curl -u me:{0} https://me:{0}@host/a.tar",
    "pipe:curl -b session={0} https://host/a.tar",
    "pipe:curl --oauth2-bearer {0} https://host/a.tar",
    "pipe:AWS_SECRET_ACCESS_KEY={0} aws s3 cp s3://bucket/a.tar -",
    "pipe:env TOKEN={0} fetch a.tar",
    "pipe:python fetch.py {0} a.tar",
    "pipe:python fetch.py --name {0} a.tar",
    "pipe:python fetch.py --name={0} a.tar",
    "pipe:sshpass -p {0} ssh host cat /data/a.tar",
    "pipe:bash -c 'curl -H \"Cookie: {0}\" https://host/a.tar?sig={0} | gunzip'",
    "pipe:scp me:{0}@host:/data/a.tar /dev/stdout",
    "pipe:curl -H 'X: a|{0}' https://host/a.tar",
    'pipe:curl -d \'{{"token": "{0}"}}\' https://host/a.tar',
    "pipe:wget --header='Authorization: {0}' -qO- https://host/a.tar",
    "pipe:wget --header 'Authorization: '{0} -qO- https://host/a.tar",
    "pipe:echo {0} | login && cat /data/a.tar",
    "pipe:rclone cat :sftp,host=h,user=me,pass={0}:laion/a.tar",
    "pipe:rclone cat :s3,secret_access_key={0}:bucket/a.tar",
    "pipe:rclone cat remote:laion/a.tar --sftp-pass {0}",
    "pipe:curl 'host/get?token={0}/a.tar'",
    "pipe:fetch --password='{0}' https://host/a.tar",
    'pipe:fetch --password="{0}" https://host/a.tar',
    "pipe:fetch '--password={0}' https://host/a.tar",
    'pipe:TOKEN="{0}" fetch https://host/a.tar',
    "pipe:'T'OKEN='{0}' fetch https://host/a.tar",
    "pipe:curl -u me:'{0}' https://host/a.tar",
    "pipe:curl -H Authorization:'{0}' https://host/a.tar",
    "pipe:curl -sH Authorization:'{0}' https://host/a.tar",
    "pipe:curl -sSfLH '{0}' https://host/a.tar",
    "pipe:curl --cert /etc/c.pem:{0} https://host/a.tar",
    "pipe:fetch {0}",
    "pipe:fetch -p{0}",
    "pipe:fetch --retry 3 --pin {0}",
    "pipe:smbget //me:{0}@srv/a.tar",
    "pipe:curl https://host/a.tar|TOKEN={0} dec",
    "pipe:curl https://host/a.tar;TOKEN={0} dec",
    "pipe:curl https://host/a.tar&&TOKEN={0} dec",
    "pipe:echo a\\|TOKEN={0} fetch https://host/a.tar",
    'pipe:curl -H \\"Authorization: Bearer {0}\\" https://host/a.tar',
    "pipe:curl https://host/a.tar#access_token={0}",
    "pipe:curl https://host/a.tar # {0}",
    "pipe:fetch - <<EOF\n{0}\nEOF",
    "pipe:fetch 'https://host/a.tar' \"{0}",
    "pipe:fetch $(date) {0}",
    "https://host/a.tar#access_token={0}",
    "https://host/a.tar;token={0}",
    "https://host:8080/a.tar?exp={0}&ttl={0}&nonce={0}&ts={0}",
    "https://me:pa?{0}@host/a.tar",
    "${{BASE}}/a.tar?sig={0}",
    "${{SCHEME}}://me:{0}@host/a.tar?sig={0}",
]


NAMED = [tar_name, masked, lambda url: tar_names([url, f"{url}0"])[0]]


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
@pytest.mark.parametrize("name", NAMED)
def test_a_name_has_no_credentials_and_survives_their_rotation(url, name):
    found = {name(url.format(secret, "part")) for secret in SECRETS}
    assert len(found) == 1
    (only,) = found
    assert not any(secret in only for secret in SECRETS)
    assert "https://host/a.tar" in only or "https://host/a.tar" not in url


@pytest.mark.parametrize("name", NAMED)
@given(
    url=st.sampled_from([url for url in WITH_CREDENTIALS if "{1}" not in url]),
    secret=st.from_regex(r"[A-Za-z0-9/+_.=,:@%~^?][A-Za-z0-9/+_.=,:@%~^?-]{7,40}", fullmatch=True).filter(
        lambda secret: "::" not in f":{secret}:" and "://" not in secret  # which would be lists and URLs themselves
    ),
)
def test_no_secret_is_in_a_name(name, url, secret):
    """At each place of each template, alone or together, and another secret gives the same name."""
    before, *after = url.format("\0").split("\0")
    others = ["0therS3cret"] * len(after)
    usual = name(before + "".join(map("".join, zip(others, after, strict=True))))
    for number in range(len(after)):
        in_url = "://" in url and after[number].startswith("@")
        secrets = [*others[:number], quote(secret, safe="") if in_url else secret, *others[number + 1 :]]
        found = name(before + "".join(map("".join, zip(secrets, after, strict=True))))
        assert found == usual
        assert "0therS3cret" not in found


@pytest.mark.parametrize(
    "url",
    [
        "/data/a b.tar",
        "file:/data/a.tar",
        "s3://bucket/a.tar",
        "https://host/{000..127}.tar.gz",
        "hf://datasets/laion/pop/a.tar",
        "pipe:cat /data/a.tar",
        "pipe:cat /data/a.tar; exit 3",
        "pipe:test ! -e /tmp/flag && cat /data/a.tar 2>/dev/null",
        "pipe:aws s3 cp s3://bucket/laion/{00000..00127}.tar -",
        "pipe:gsutil cat gs://bucket/a.tar | zstd -dc",
        "pipe:gcloud storage cat gs://bucket/a.tar",
        "pipe:rclone cat remote:laion/a.tar",
        "pipe:head -c 900 ../a.tar.gz && gunzip --stdout",
        "pipe:curl -sfL --retry 3 'https://host/a.tar' | pigz -dc",
        "pipe:curl -s https://$HOST/a.tar $FLAGS ",
        "pipe:zstd -dc '/data/a.tar.zst'",
        "pipe:hdfs dfs -cat /data/a.tar",
        "pipe:bash -c 'cat /data/a.tar | gunzip'",
        "/data/a?b.tar",
        "a?b#c.tar",
        "{/data,/more}/a?.tar",
        "https://host/a@b.tar",
        "${DATA}/a.tar",
    ],
)
def test_what_has_no_credentials_is_its_own_name(url):
    assert tar_name(url) == masked(url) == url


@pytest.mark.parametrize(
    ("url", "name", "shown"),
    [
        ("https://me:pw@host/a.tar?sig=x", "https://host/a.tar", "https://***@host/a.tar?***"),
        (
            "pipe:curl -s -H 'Authorization: Bearer T0' https://host/a.tar?sig=x | gunzip",
            "pipe:curl -s -H *** https://host/a.tar | gunzip",
            "pipe:curl -s -H *** https://host/a.tar?*** | gunzip",
        ),
        (
            "pipe:TOKEN=abc LEVEL=3 fetch --shard 3 --to=/tmp word",
            "pipe:TOKEN=*** LEVEL=3 fetch --shard 3 --to=*** ***",
            "pipe:TOKEN=*** LEVEL=3 fetch --shard 3 --to=*** ***",
        ),
        ("https://me:pa?ss@host/a.tar", "https://host/a.tar", "https://***@host/a.tar"),
        ("https://me:12?34@host/a.tar", "https://***", "https://***"),
        ("https://me:12/34@host/a.tar", "https://***", "https://***"),
        ("https://me:p@s/s@host/a.tar", "https://***", "https://***"),
        ("https://me:p?s@host/a.tar?sig=x@y", "https://***", "https://***"),
        ("https://host:80/a.tar?sig=x@y", "https://host:80/a.tar", "https://host:80/a.tar?***"),
        (
            "https://[1:2:3:4:5:6:7:8]:80/a.tar?sig=x@y",
            "https://[1:2:3:4:5:6:7:8]:80/a.tar",
            "https://[1:2:3:4:5:6:7:8]:80/a.tar?***",
        ),
        ("https://$H:${P}/a.tar?sig=x@y", "https://$H:${P}/a.tar", "https://$H:${P}/a.tar?***"),
        ("pipe:sh -c 'x \"S 1\" | zcat'", "pipe:sh -c 'x *** | zcat'", "pipe:sh -c 'x *** | zcat'"),
    ],
)
def test_names_are_readable(url, name, shown):
    assert (tar_name(url), masked(url)) == (name, shown)


def test_tars_that_differ_only_in_their_queries_have_different_names():
    urls = [f"https://host/get?file={n}.tar&part={n % 2}&token=abc{n}&Expires=36{n}" for n in range(3)]
    assert tar_names(urls) == tuple(f"https://host/get?file={n}.tar&part={n % 2}" for n in range(3))
    again = [re.sub(r"token=\w+", "token=other", url) for url in urls]
    assert Tars.of(again).fingerprint == Tars.of(urls).fingerprint != Tars.of(urls[:2]).fingerprint


@pytest.mark.parametrize("key", ["exp", "ttl", "nonce", "ts", "sig", "token", "Expires", "X-Amz-Date"])
def test_parameters_of_a_signature_are_no_part_of_a_name(key):
    urls = [f"https://host/get?part={n}&{key}=60" for n in range(2)]
    assert tar_names(urls) == ("https://host/get?part=0", "https://host/get?part=1")


@pytest.mark.parametrize(
    ("urls", "shown"),
    [
        ("https://host/a.tar::https://me:S3@host/b.tar", "https://host/a.tar::https://***@host/b.tar"),
        ("/data/a.tar::pipe:TOKEN=S3 fetch b.tar", "/data/a.tar::pipe:TOKEN=*** fetch ***"),
        ("/data/a.tar::pipe:curl -H 'Auth: S3' https://h/a.tar", "/data/a.tar::pipe:curl -H *** https://h/a.tar"),
        ("pipe:curl -H 'X::S3' https://h/a.tar", "pipe:curl -H ***::***"),
        ("pipe:curl -H 'X::Bearer S3'", "pipe:curl -H ***::***"),
        ("pipe:curl -u me::S3", "pipe:curl -u ***::***"),
        ("pipe:curl -H 'X::Bearer:S3'", "pipe:curl -H ***::***"),
        ("a.tar::b.tar::file:c.tar", "a.tar::b.tar::file:c.tar"),
        ("{https://me:S3@host/a.tar,/data/b.tar}", "***"),
        ("http{,s}://me:S3@host/a.tar", "***"),
        ("${P}:curl -H 'Auth: S3' https://h/a.tar", "***"),
    ],
)
def test_lists_and_braces_are_masked(urls, shown):
    assert masked(urls) == shown


def test_values_of_variables_are_no_part_of_a_name(monkeypatch):
    urls = ["https://host/${TOKEN}/{0..1}.tar", "pipe:cat ${TOKEN}/a.tar::${TOKEN}/a.tar"]
    names = ("https://host/${TOKEN}/0.tar", "https://host/${TOKEN}/1.tar", "pipe:cat ${TOKEN}/a.tar", "${TOKEN}/a.tar")
    for token in ("s3cr3t", "0ther"):
        monkeypatch.setenv("WDS_TOKEN", token)
        tars = Tars.of(urls)
        assert tars.names == names
        assert tars.urls[0] == f"https://host/{token}/0.tar"
    monkeypatch.setenv("WDS_RANGE", "{0..1}")
    assert Tars.of(["/x/${RANGE}.tar"]).names == ("/x/${RANGE}.tar", "/x/${RANGE}.tar (2)")


def test_tars_that_only_a_credential_tells_apart_are_numbered():
    urls = ["pipe:fetch first", "pipe:fetch second", "pipe:fetch first", "pipe:fetch --shard 3"]
    assert tar_names(urls) == ("pipe:fetch ***", "pipe:fetch *** (2)", "pipe:fetch ***", "pipe:fetch --shard 3")


def test_a_copy_without_its_credentials_is_not_read():
    with pytest.raises(UserError, match=r"data\.streams: https://host/a\.tar\?\*\*\*: without its credentials"):
        tar_names([masked("https://host/a.tar?sig=x")])
    assert MASK not in tar_name("https://me@host/a.tar?sig=x")
