"""Our own engine on the KVM API."""
