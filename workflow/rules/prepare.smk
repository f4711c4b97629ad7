rule prepare:
    input:
        plan.annotations,
    output:
        directory("results/{name}/data/{domain}"),
    log:
        "results/{name}/logs/prepare/{domain}.log",
    benchmark:
        "results/{name}/benchmarks/prepare/{domain}.tsv"
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
    params:
        settings=plan.settings("prepare"),
        data_root=plan.data_root_option,
    shell:
        "cast prepare --settings {params.settings:q} {params.data_root:q} --out {output:q} 2>&1 | tee {log:q}"
