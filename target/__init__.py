"""lunmesh: a distributed storage target that speaks iSCSI."""

__version__ = "0.1.0"
