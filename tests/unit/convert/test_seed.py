"""The NoCloud seed, read back from the ISO."""

from __future__ import annotations

import io

import pycdlib
import yaml

from lq_operator.convert.seed import SeedContent, SeedNic, iso_bytes, meta_data, network_config


def read(iso_file: bytes, name: str) -> bytes:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(iso_file))
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    iso.close()
    return out.getvalue()


def test_the_three_files_come_back_as_they_went_in() -> None:
    content = SeedContent(b"instance-id: i\n", b"#!/bin/sh\necho \xc3\xa4\n", b"version: 2\n")
    made = iso_bytes(content)
    assert read(made, "meta-data") == content.meta_data
    assert read(made, "user-data") == content.user_data
    assert read(made, "network-config") == content.network_config


def test_half_a_mebibyte_of_user_data_fits() -> None:
    big = b"#cloud-config\n#" + b"x" * (512 * 1024 - 16)
    assert read(iso_bytes(SeedContent(b"", big, b"")), "user-data") == big


def test_instance_id_and_hostname_are_ours() -> None:
    said = yaml.safe_load(
        meta_data(
            instance_id="i",
            hostname="web",
            epoch="3-17",
            public_keys=["ssh-ed25519 AAA"],
            extra={"instance-id": "x", "limiquantix-epoch": "9-9", "tier": "front"},
        )
    )
    assert said == {
        "instance-id": "i",
        "limiquantix-epoch": "3-17",
        "local-hostname": "web",
        "public-keys": ["ssh-ed25519 AAA"],
        "tier": "front",
    }


def test_network_config_names_addresses_by_mac() -> None:
    made = network_config(
        [SeedNic("eth0", "02:00:00:00:00:01", "10.0.0.5/24", "10.0.0.1", ("1.1.1.1",), 1450)],
        [("eth1", "02:00:00:00:00:02")],
    )
    assert made.startswith(b"#addr 02:00:00:00:00:01 10.0.0.5/24 10.0.0.1\n")
    ethernets = yaml.safe_load(made)["ethernets"]
    assert ethernets["eth0"]["addresses"] == ["10.0.0.5/24"]
    assert ethernets["eth0"]["match"] == {"macaddress": "02:00:00:00:00:01"}
    assert ethernets["eth0"]["mtu"] == 1450
    assert ethernets["eth1"] == {"match": {"macaddress": "02:00:00:00:00:02"}, "dhcp4": True}
