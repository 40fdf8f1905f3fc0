// What src/lib.rs exports, which says what each of them means.
#pragma once

#include <cstdint>

extern "C" {

struct AqManager;
struct AqQueue;

struct AqBuffer {
    uint64_t words[6];
};

struct AqStatistics {
    uint64_t live_bytes;
    uint64_t reserved_bytes;
    uint64_t reserved_peak_bytes;
    uint64_t driver_call_count;
};

const char* aq_last_error();
AqManager* aq_open(uint64_t budget_bytes, const char* policy);
void aq_close(AqManager* manager);
AqQueue* aq_queue_open(const AqManager* manager);
void aq_queue_close(AqQueue* queue);
void* aq_queue_stream(const AqQueue* queue);
uint64_t aq_allocate(const AqQueue* queue, uint64_t bytes, AqBuffer* storage);
void aq_free(AqBuffer* storage);
uint64_t aq_address(const AqBuffer* storage);
int aq_record_use(const AqBuffer* storage, const AqQueue* queue);
uint64_t aq_trim(const AqManager* manager);
AqStatistics aq_statistics(const AqManager* manager);
}
