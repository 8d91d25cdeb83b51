// What the rows of the activations say on the host.
#include "cuda_impl/activation/activation_math.cuh"

namespace moeref::cuda {

bool is_gated(Activation activation) {
  bool gated = false;
  with_activation(activation, [&]<class Act>() { gated = Act::layout != UpLayout::up_only; });
  return gated;
}

bool is_of_mlp(Activation activation) {
  bool of_mlp = false;
  with_activation(activation, [&]<class Act>() { of_mlp = Act::in_mlp; });
  return of_mlp;
}

}  // namespace moeref::cuda
