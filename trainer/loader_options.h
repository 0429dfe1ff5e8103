// The configuration in the words of the data loader.
#pragma once

#include "data/loader.h"
#include "trainer/config/config.h"
#include "trainer/distributed/communicator.h"
#include "trainer/validation.h"

namespace gsa {

// This rank's training batches from global sample `start_sample` on.
data::LoaderOptions loader_options(const Config& config, const Communicator& communicator,
                                   const BatchPlan& plan, int64_t start_sample);

ValidationOptions validation_options(const Config& config);

}  // namespace gsa
