//! Keeps the module in the process after `dlclose`: threads that have used it end with destructors of its OpenSSL, which
//! would then be gone: one process in five died of that. OpenSSL's own shared library is linked in this way.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
