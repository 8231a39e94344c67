"""libvirt's XML, both ways, in our words. Pure: no libvirt, no IO, same input same text."""
