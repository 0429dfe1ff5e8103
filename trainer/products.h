// The algorithms of a run's matrix products: measured once for a kind of GPU and a version of the
// library, kept in a file, and the same for all ranks.
//
// The file (trainer/product_file.h) lies in the user's cache, or in the folder GSA_PRODUCT_CACHE.
// Where nothing can be kept, and with GSA_PRODUCT_CACHE=off, products take what the library
// proposes first.
//
// A run that is stopped and resumed finds its choices in the file and gives the same bits as
// without the stop. If the file was lost in between, or the run goes on on another machine, what is
// measured then may differ: the curve goes on within rounding.
#pragma once

#include "trainer/model/engine.h"
#include "trainer/session.h"

namespace gsa {

// Has the products of a step that was planned use the fastest algorithms from now on, on every
// rank; measures what the file does not know, some tenths of a second a product on rank 0.
// Collective; takes memory that it gives back. Throws OutOfMemory, before it measures, if the
// step's arena does not fit. Does nothing on the CPU, and passes over products too small to matter.
void prepare_products(Session& session, Stream& stream, const PassCost& step);

}  // namespace gsa
