// The algorithms of a run's matrix products: measured once, and the same for all ranks and all
// starts of the run.
//
// A run that goes on uses what its checkpoint remembers, where that is for the same kind of GPU and
// the same version of the library, and so gives the same bits as without the stop, on whichever
// machine. Where it is not, one line says that algorithms are chosen anew: the curve goes on within
// rounding.
//
// Products that no checkpoint remembers (a new run, or other shapes than before) are looked for in
// a file and measured once where it does not have them. The file (trainer/product_file.h) lies in
// the user's cache, or in the folder GSA_PRODUCT_CACHE. Where nothing can be kept, and with
// GSA_PRODUCT_CACHE=off, such products take what the library proposes first, and checkpoints
// remember that too.
#pragma once

#include "trainer/model/engine.h"
#include "trainer/product_choices.h"
#include "trainer/session.h"

namespace gsa {

// Throws OutOfMemory if the arena of a step that was planned does not fit; takes none. For before
// products are measured. Does nothing on the CPU.
void require_room(const Session& session, const PassCost& step);

// Has the products of a step that was planned use their algorithms from now on, on every rank, and
// returns them for checkpoints; measures what is not known, some tenths of a second a product on
// rank 0. Collective; only rank 0's `remembered`, of the checkpoint that the run goes on from, is
// looked at. Takes memory that it gives back. Does nothing on the CPU, and passes over products too
// small to matter, which take the library's first proposals.
RunProducts prepare_products(Session& session, Stream& stream, const PassCost& step,
                             const RunProducts& remembered);

}  // namespace gsa
