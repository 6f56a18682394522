from cxr_ray.training.room import count_workers, worker_resources


def test_a_worker_fits_on_one_node_or_not_at_all():
    each = worker_resources(cpus=3, gpus=0)
    assert count_workers(each, [{"CPU": 2.0}, {"CPU": 2.0}]) == 0
    assert count_workers(each, [{"CPU": 7.0}, {"CPU": 3.0}]) == 3


def test_the_scarcest_resource_of_a_node_counts():
    each = worker_resources(cpus=1, gpus=0.1)
    assert count_workers(each, [{"CPU": 64.0, "GPU": 1.0}, {"CPU": 64.0}]) == 10
