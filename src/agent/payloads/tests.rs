//! Payloads between two simulated stores.
