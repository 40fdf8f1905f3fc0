// No allocator: what the loop costs by itself. Its addresses are none.
#include "allocator.hpp"

namespace {

class Loop final : public Allocator {
public:
    void* allocate(uint64_t, const Stream&, Storage& storage) override { return &storage; }
    void free(void*, uint64_t, const Stream&, Storage&) override {}
    void free_after(void*, uint64_t, const Stream&, const Stream&, Storage&) override {}
    void trim() override {}
};

}  // namespace

std::vector<Peer> peers() {
    return {{"loop", "the loop alone, with no allocator", false,
             [](const Setup&) -> std::unique_ptr<Allocator> { return std::make_unique<Loop>(); }}};
}
