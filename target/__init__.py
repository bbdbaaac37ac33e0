"""lunmesh: a distributed storage target that speaks iSCSI."""
