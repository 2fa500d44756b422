"""The coordinator's control plane over gRPC: the `Coordinator` interface, for people and scripts on this and other machines.

Nothing is imported here: roles are needed where the server is not, and it needs who has them.
"""
