// For builds without CUPTI.
#include "driver_calls.hpp"

#include <stdexcept>

struct DriverCalls::Subscription {};
DriverCalls::DriverCalls() { throw std::runtime_error("built without CUPTI, so calls of the driver cannot be counted"); }
DriverCalls::~DriverCalls() = default;
DriverCalls::Total DriverCalls::stop() { return {}; }
