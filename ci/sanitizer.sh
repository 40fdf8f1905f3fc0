# What ci/asan, ci/tsan and ci/metal share; they source it. Needs the name of the sanitizer in $sanitizer, and takes the packages to
# test from $packages.
#
# The sanitizers are a feature of the nightly compiler. AQUIFER_NIGHTLY names another toolchain than "nightly".

cd "$(dirname "${BASH_SOURCE[0]}")/.."
toolchain=${AQUIFER_NIGHTLY:-nightly}
if ! command -v rustup >/dev/null || ! rustup run "$toolchain" rustc --version >/dev/null 2>&1; then
    echo "ci/${0##*/}: the $toolchain toolchain is not installed; rustup toolchain install $toolchain" >&2
    exit 2
fi
host=$(rustup run "$toolchain" rustc -vV | sed -n 's/^host: //p')
if [[ $host != *-linux-gnu ]]; then
    echo "ci/${0##*/}: runs on Linux only, this is $host" >&2
    exit 2
fi

[[ -v packages ]] || packages=(aquifer-backend aquifer-core aquifer-host aquifer-testkit)
# rustix calls the C library instead of the system, so that the sanitizer sees what is mapped. One set of flags for all that use
# it, since another would build everything anew.
address_flags="-Zsanitizer=address -Cforce-frame-pointers=yes --cfg=rustix_use_libc"

# Reads the arguments of the script, which go to each test program: a name to run only the tests that have it.
run_tests() {
    local arguments=(--target "$host" --target-dir "target/$sanitizer")
    arguments+=("${packages[@]/#/--package=}" --lib --tests)
    # Whatever packages are asked for, their dependencies have the same features, so that ci/asan and ci/metal share what they build.
    arguments+=(-Z feature-unification --config 'resolver.feature-unification="workspace"')
    # One test spends the process's last mapping; the sanitizer's own memory is mapped too, and it dies without.
    # The sanitizers let no memory be locked: they take the call and do nothing.
    local skipped=(--skip a_refused_block_comes_back_whole_and_nothing_is_lost
        --skip a_refused_lock_is_a_typed_error --skip pinned_blocks_are_locked_whole --skip pinned_blocks_are_on_their_node
        --skip a_refused_mapping_changes_nothing --skip limits_are_errors_and_what_exists_goes_on
        --skip memory_is_there_where_touched_counted_once --skip mapped_memory_is_the_parents_alone)
    # An explicit target keeps build scripts and procedural macros out of it. Lines are kept for readable reports.
    CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only \
        CARGO_PROFILE_TEST_DEBUG=line-tables-only CARGO_INCREMENTAL=0 \
        cargo "+$toolchain" test --no-fail-fast "${arguments[@]}" -- "${skipped[@]}" "$@"
}
