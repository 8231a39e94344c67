"""What lies in a CD-ROM drive is told by its file's name."""

import pytest

from lq_operator.core.storage.names import artefact_file, medium_of, ready_mark, volume_file


@pytest.mark.parametrize(
    ("path", "medium"),
    [
        (f"/srv/p/{artefact_file('team-a', 'debian-12.iso', 'ab' * 32, 'raw')}", "team-a/debian-12.iso"),
        (f"/srv/p/{volume_file('team-a', 'tools', '0123456789', 'qcow2')}", "tools"),
        ("", ""),
        ("/root/by-hand.iso", ""),
        ("/srv/p/img_a", ""),
        ("/srv/p/seed_team-a_vm_1", ""),
        (ready_mark("/srv/p/img_a_b_c.raw"), "a/b"),
    ],
)
def test_by_its_file(path: str, medium: str) -> None:
    assert medium_of(path) == medium
