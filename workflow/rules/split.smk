rule split:
    input:
        data="results/{name}/data/target",
        labelled_list=plan.labelled_list,
    output:
        directory("results/{name}/seed{seed}{budget}/split"),
    log:
        "results/{name}/logs/split/seed{seed}{budget}.log",
    benchmark:
        "results/{name}/benchmarks/split/seed{seed}{budget}.tsv"
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
    params:
        settings=plan.settings("split"),
    shell:
        "cast split --settings {params.settings:q} --data {input.data:q} --seed {wildcards.seed} --out {output:q}"
        " 2>&1 | tee {log:q}"
