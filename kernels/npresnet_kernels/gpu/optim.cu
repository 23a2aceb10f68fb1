// Optimizer updates in place, an element a thread.
#include "scalar.cuh"

// momentum_buffer is null exactly when momentum is 0
extern "C" __global__ void sgd_update(scalar* parameter, const scalar* grad,
                                      scalar* momentum_buffer, long long total, int first_step,
                                      double lr, double momentum, double dampening,
                                      double weight_decay, int nesterov) {
    for (EACH(i, total)) {
        const real p = load(parameter, i);
        real d = load(grad, i);
        if (weight_decay != 0) d += (real)weight_decay * p;
        if (momentum_buffer) {
            real b = d;
            if (!first_step)
                b = (real)momentum * load(momentum_buffer, i) + (real)(1 - dampening) * d;
            store(momentum_buffer, i, b);
            d = nesterov ? d + (real)momentum * b : b;
        }
        store(parameter, i, p - (real)lr * d);
    }
}

// correction1 = lr / (1 - beta1^step), correction2 = sqrt(1 - beta2^step)
extern "C" __global__ void adamw_update(scalar* parameter, const scalar* grad, scalar* exp_avg,
                                        scalar* exp_avg_sq, long long total, double decay,
                                        double beta1, double beta2, double eps,
                                        double correction1, double correction2) {
    for (EACH(i, total)) {
        const real g = load(grad, i);
        const real m = load(exp_avg, i) + (real)(1 - beta1) * (g - load(exp_avg, i));
        const real v = (real)beta2 * load(exp_avg_sq, i) + (real)(1 - beta2) * g * g;
        store(exp_avg, i, m);
        store(exp_avg_sq, i, v);
        const real denominator = sqrt(v) / (real)correction2 + (real)eps;
        store(parameter, i,
              load(parameter, i) * (real)decay - (real)correction1 * m / denominator);
    }
}
