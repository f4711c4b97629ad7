rule split:
    input:
        "results/{name}/data/target",
    output:
        directory("results/{name}/seed{seed}/split"),
    log:
        "results/{name}/logs/split/seed{seed}.log",
    benchmark:
        "results/{name}/benchmarks/split/seed{seed}.tsv"
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
    params:
        settings=plan.settings("split"),
    shell:
        "cast split --settings {params.settings:q} --data {input:q} --seed {wildcards.seed} --out {output:q}"
        " 2>&1 | tee {log:q}"
