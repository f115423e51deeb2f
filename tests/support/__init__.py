"""What tests of several kinds share: engines of their own, tenants."""
