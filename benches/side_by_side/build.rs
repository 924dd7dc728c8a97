//! Has the linker pass every allocation, of Rust and of C, through `src/allocations.rs`.

fn main() {
    for function in ["malloc", "calloc", "realloc", "posix_memalign"] {
        println!("cargo:rustc-link-arg-bins=-Wl,--wrap={function}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
