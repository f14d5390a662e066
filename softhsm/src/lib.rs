//! softhsm
