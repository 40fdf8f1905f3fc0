// Aquifer, by its C interface.
#include "aquifer.h"
#include "allocator.hpp"

#include <stdexcept>

namespace {

static_assert(sizeof(AqBuffer) <= sizeof(Storage) && alignof(AqBuffer) <= alignof(Storage));

[[noreturn]] void fail() { throw std::runtime_error(aq_last_error()); }

AqQueue* as_queue(const Stream& stream) { return static_cast<AqQueue*>(stream.own); }
AqBuffer* as_buffer(Storage& storage) { return reinterpret_cast<AqBuffer*>(&storage); }

class Aquifer final : public Allocator {
public:
    explicit Aquifer(const char* policy) : manager(aq_open(0, policy)) {
        if (manager == nullptr) fail();
    }

    ~Aquifer() override {
        device::synchronize();
        aq_trim(manager);
        aq_close(manager);
    }

    // The manager makes the streams of its queues.
    Stream open_stream() override {
        AqQueue* queue = aq_queue_open(manager);
        if (queue == nullptr) fail();
        void* cuda = aq_queue_stream(queue);
        if (cuda == nullptr && device::has_streams) {
            aq_queue_close(queue);
            throw std::runtime_error("this library's queues have no streams; build it over a device that has");
        }
        return {cuda, queue};
    }

    void close_stream(const Stream& stream) override { aq_queue_close(as_queue(stream)); }

    void* allocate(uint64_t bytes, const Stream& stream, Storage& storage) override {
        const uint64_t address = aq_allocate(as_queue(stream), bytes, as_buffer(storage));
        if (address == 0) fail();
        return reinterpret_cast<void*>(address);
    }

    void free(void*, uint64_t, const Stream&, Storage& storage) override { aq_free(as_buffer(storage)); }

    void free_after(void*, uint64_t, const Stream&, const Stream& last, Storage& storage) override {
        if (aq_record_use(as_buffer(storage), as_queue(last)) != 0) fail();
        aq_free(as_buffer(storage));
    }

    void trim() override { aq_trim(manager); }

private:
    AqManager* manager;
};

}  // namespace

std::vector<Peer> peers() {
    return {{"aquifer", "Aquifer, default policy, budget and statistics on", false,
             [](const Setup&) -> std::unique_ptr<Allocator> { return std::make_unique<Aquifer>(nullptr); }},
            {"aquifer_elastic", "Aquifer, policy elastic", false,
             [](const Setup&) -> std::unique_ptr<Allocator> { return std::make_unique<Aquifer>("elastic"); }},
            {"aquifer_blocks", "Aquifer, policy blocks", false,
             [](const Setup&) -> std::unique_ptr<Allocator> { return std::make_unique<Aquifer>("blocks"); }}};
}
